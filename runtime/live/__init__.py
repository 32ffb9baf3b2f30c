"""Live streams: cameras and network streams that never end, in bounded memory and bounded time.

Frames go

    source -> clock -> waiting room (bounded, with a policy) -> worker: recursion -> results (bounded) -> sink

with one thread each for the source, the worker and the sink; the worker's part is `vtsr.LiveUpconverter`.
"""
