"""TensorRT on an NVIDIA GPU: pinned buffers, a ring of slots, recursion levels that overlap, CUDA graphs.

    settings    what a caller may choose
    schedule    who waits for whom, which buffer is free when; pure
    flow        the streaming recursion as operations on blocks of memory; pure
    timeline    when the operations of a schedule would run; pure
    executor    operations onto a device
    device      what a device can do; `cuda` is the real one
    backend     all of it behind `vtsr.runtime.backend.Backend`
    arrays      device memory shared with other libraries
    embedding   device frames in, device frames out

The module ``tensorrt`` of NVIDIA is another one; nothing here is imported unless TensorRT is asked for.
"""
