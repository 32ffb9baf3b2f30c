"""Audio, subtitles, attachments, chapters, tags and geometry come out as they went in."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media import Command, mux_audio, picture, read_audio, read_planes, read_times, sine, to_av, write_clip

from vtsr.runtime.video.streams import ATTACHED_PIC, is_cover, side_data
from vtsr.runtime.video.writer import CAN_NOTE_ROTATION

SUBTITLES = b"1\n00:00:00,200 --> 00:00:00,600\nfirst\n\n2\n00:00:00,800 --> 00:00:01,000\nsecond\n\n"
CHAPTERS = [
    {"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}},
    {"id": 2, "start": 400, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "two"}},
]
FONT = bytes(range(256)) * 4


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def with_extras(
    path: Path, audio: str = "aac", rate: int = 48000, more: Callable[[Any, Any], None] | None = None, **options: Any
) -> Path:
    """One second of video at 25 fps with sound; in Matroska also subtitles and an attachment."""
    state: dict[str, Any] = {}

    def prepare(container: Any, stream: Any) -> None:
        state["audio"] = container.add_stream(audio, rate=rate)
        state["audio"].metadata["language"] = "fin"
        container.set_chapters(CHAPTERS)
        if path.suffix == ".mkv":
            state["srt"] = av.open(io.BytesIO(SUBTITLES), format="srt")
            state["text"] = container.add_stream_from_template(state["srt"].streams[0], opaque=True)
            state["text"].metadata["language"] = "swe"
            container.add_attachment("font.ttf", "font/ttf", FONT)
        if more:
            more(container, stream)

    def before_mux(container: Any) -> None:
        mux_audio(container, state["audio"], sine(1.0, rate))
        if "srt" in state:
            for packet in state["srt"].demux():
                if packet.dts is not None:
                    packet.stream = state["text"]
                    container.mux(packet)

    return write_clip(path, 25, codec="libx264", prepare=prepare, before_mux=before_mux, **options)


def subtitles(path: Path) -> list[tuple[Fraction, Fraction, bytes]]:
    """(start, duration, text) of every subtitle."""
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        return [
            (p.pts * p.time_base, p.duration * p.time_base, bytes(p)) for p in container.demux(stream) if p.size
        ]


def chapters(path: Path) -> list[tuple[Fraction, Fraction, str]]:
    with av.open(str(path)) as container:
        return [
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]["title"])
            for c in container.chapters()
        ]


@pytest.mark.parametrize(
    ("audio", "source", "target"),
    [("aac", ".mp4", ".mp4"), ("aac", ".mkv", ".mkv"), ("libopus", ".mkv", ".webm"), ("flac", ".mkv", ".mkv"),
     ("pcm_s16le", ".mov", ".mkv"), ("ac3", ".mp4", ".mov")],
)  # fmt: skip
def test_audio_samples_are_identical(command: Command, tmp_path: Path, audio: str, source: str, target: str) -> None:
    clip = with_extras(tmp_path / f"in{source}", audio)
    output = tmp_path / f"out{target}"
    assert command(clip, output, "--levels", 1).code == 0
    before, after = read_audio(clip), read_audio(output)
    assert before.shape[1] >= 47000
    assert np.array_equal(before, after)
    with av.open(str(output)) as container:
        assert container.streams.audio[0].metadata["language"] == "fin"


def test_aac_from_mp4_into_matroska_stays_in_step(command: Command, tmp_path: Path) -> None:
    # The first packet only fills the decoder; Matroska has no way to say so, and it is left out.
    clip = with_extras(tmp_path / "in.mp4")
    output = tmp_path / "out.mkv"
    assert command(clip, output, "--levels", 1).code == 0
    before, after = read_audio(clip), read_audio(output)
    assert np.abs(before[:, 2048:] - after[:, 2048:]).max() < 1e-3  # AAC fills gaps with noise
    assert read_times(output)[0] == 0


def test_audio_can_be_left_out(command: Command, tmp_path: Path) -> None:
    clip = with_extras(tmp_path / "in.mp4")
    assert command(clip, tmp_path / "out.mp4", "--levels", 1, "--audio", "none").code == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.streams.audio) == 0


def test_audio_that_does_not_fit_is_named(command: Command, tmp_path: Path) -> None:
    clip = with_extras(tmp_path / "in.mp4")
    outcome = command(clip, tmp_path / "out.webm", "--levels", 1)
    assert outcome.code == 0
    assert "(aac) does not fit into webm" in outcome.said


def test_subtitles_attachments_and_chapters_pass(command: Command, tmp_path: Path) -> None:
    clip = with_extras(tmp_path / "in.mkv")
    output = tmp_path / "out.mkv"
    assert command(clip, output, "--levels", 1).code == 0
    assert subtitles(output) == subtitles(clip)
    assert [text for _, _, text in subtitles(output)] == [b"first", b"second"]
    assert chapters(output) == [(0, Fraction(2, 5), "one"), (Fraction(2, 5), 1, "two")]
    with av.open(str(output)) as container:
        assert container.streams.subtitles[0].metadata["language"] == "swe"
        fonts = [s for s in container.streams if s.type == "attachment"]
        assert [(f.name, f.mimetype, f.data) for f in fonts] == [("font.ttf", "font/ttf", FONT)]


def test_chapters_cross_from_matroska_to_mp4(command: Command, tmp_path: Path) -> None:
    clip = with_extras(tmp_path / "in.mkv")
    outcome = command(clip, tmp_path / "out.mp4", "--levels", 1)
    assert outcome.code == 0
    assert "does not fit into mp4" in outcome.said
    assert chapters(tmp_path / "out.mp4") == [(0, Fraction(2, 5), "one"), (Fraction(2, 5), 1, "two")]


def test_a_cut_takes_the_same_part_of_everything(command: Command, tmp_path: Path) -> None:
    clip = with_extras(tmp_path / "in.mkv", "pcm_s16le")
    output = tmp_path / "out.mkv"
    assert command(clip, output, "--levels", 1, "--start", "0.3", "--duration", "0.5").code == 0
    # A subtitle on screen at the cut begins with it; the one after the end is gone.
    (start, length, text), *others = subtitles(output)
    assert (start, length, text, others) == (0, Fraction(3, 10), b"first", [])
    assert chapters(output) == [(0, Fraction(1, 10), "one"), (Fraction(1, 10), Fraction(1, 2), "two")]
    with av.open(str(output)) as container:
        first = next(container.decode(audio=0))
        begin = round((first.pts * first.time_base + Fraction(3, 10)) * 48000)
    sound, whole = read_audio(output), read_audio(clip)
    # Packets are whole: the sound begins with the first one inside the cut and lasts as long, to a packet.
    assert abs(sound.shape[1] - 24000) <= 1100
    near = [np.abs(whole[0, k : k + 9000].astype(int) - sound[0, :9000]).max() for k in range(begin - 48, begin + 49)]
    assert min(near) == 0  # within Matroska's millisecond


@pytest.mark.parametrize("extension", [".mp4", ".webm", ".mkv"])
def test_slow_motion_stretches_sound_at_the_same_pitch(command: Command, tmp_path: Path, extension: str) -> None:
    clip = with_extras(tmp_path / "in.mkv", "pcm_s16le")
    output = tmp_path / f"out{extension}"
    assert command(clip, output, "--levels", 2, "--slow-motion", "--audio", "stretch").code == 0
    sound = read_audio(output)[0]
    assert 3.85 < sound.size / 48000 < 4.05
    middle = sound[48000:96000] * np.hanning(48000)
    assert abs(int(np.abs(np.fft.rfft(middle)).argmax()) - 440) <= 2  # Hz, one per bin
    assert chapters(output) == [(0, Fraction(8, 5), "one"), (Fraction(8, 5), 4, "two")]


def test_slow_motion_drops_sound_and_says_so_but_stretches_subtitles(command: Command, tmp_path: Path) -> None:
    clip = with_extras(tmp_path / "in.mkv")
    outcome = command(clip, tmp_path / "out.mkv", "--levels", 1, "--slow-motion")
    assert outcome.code == 0
    assert "--audio stretch" in outcome.said
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert len(container.streams.audio) == 0
    assert [(start, length) for start, length, _ in subtitles(tmp_path / "out.mkv")] == [
        (Fraction(2, 5), Fraction(4, 5)),
        (Fraction(8, 5), Fraction(2, 5)),
    ]


@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
def test_tags_pass(command: Command, tmp_path: Path, extension: str) -> None:
    def more(container: Any, stream: Any) -> None:
        stream.metadata["language"] = "deu"

    clip = with_extras(tmp_path / "in.mkv", more=more, metadata={"title": "Skater", "location_note": "Tampere"})
    output = tmp_path / f"out{extension}"
    assert command(clip, output, "--levels", 1).code == 0
    with av.open(str(output)) as container:
        tags = {k.lower(): v for k, v in container.metadata.items()}
        assert (tags["title"], tags["location_note"]) == ("Skater", "Tampere")
        assert container.streams.video[0].metadata["language"] == "deu"


def test_the_sample_aspect_ratio_passes(command: Command, tmp_path: Path) -> None:
    def prepare(container: Any, stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)

    clip = write_clip(tmp_path / "in.mp4", 2, codec="libx264", prepare=prepare)
    for extension in (".mp4", ".mkv", ".mov"):
        output = tmp_path / f"out{extension}"
        assert command(clip, output, "--levels", 1).code == 0
        with av.open(str(output)) as container:
            assert container.streams.video[0].sample_aspect_ratio == Fraction(64, 45)
    assert "aspect ratio" in command(clip, tmp_path / "out.webm", "--levels", 1).said


needs_rotation = pytest.mark.skipif(not CAN_NOTE_ROTATION, reason="this version of PyAV cannot write rotated clips")


def rotated(path: Path, degrees: int, hflip: bool = False) -> Path:
    def prepare(container: Any, stream: Any) -> None:
        stream.set_display_rotation(degrees, hflip=hflip)

    return write_clip(path, 2, codec="ffv1" if path.suffix == ".mkv" else "libx264", prepare=prepare)


def matrix(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return [data for name, data in side_data(frame).items() if name == "DISPLAYMATRIX"]


@needs_rotation
@pytest.mark.parametrize("degrees", [90, -90, 180])
@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv"])
def test_rotation_is_kept_where_it_can_be_noted(
    command: Command, tmp_path: Path, degrees: int, extension: str
) -> None:
    clip = rotated(tmp_path / "in.mp4", degrees)
    output = tmp_path / f"out{extension}"
    assert command(clip, output, "--levels", 1).code == 0
    with av.open(str(output)) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation % 360 == degrees % 360
        assert (frame.width, frame.height) == (64, 48)


@needs_rotation
@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotation_is_carried_out_where_it_cannot_be_noted(command: Command, tmp_path: Path, degrees: int) -> None:
    # PyAV gives counter-clockwise angles, as np.rot90 does.
    clip = rotated(tmp_path / "in.mkv", degrees)
    assert matrix(clip)
    output = tmp_path / "out.y4m"
    assert command(clip, output, "--levels", 1).code == 0
    for before, after in zip(read_planes(clip)[0], read_planes(output)[0], strict=True):
        assert np.array_equal(after, np.rot90(before, degrees // 90))


@needs_rotation
def test_a_mirrored_picture_is_mirrored_back(command: Command, tmp_path: Path) -> None:
    clip = rotated(tmp_path / "in.mkv", 0, hflip=True)
    output = tmp_path / "out.y4m"
    assert command(clip, output, "--levels", 1).code == 0
    assert np.array_equal(read_planes(output)[0][0], read_planes(clip)[0][0][:, ::-1])


def test_a_cover_picture_is_not_taken_for_the_video(command: Command, tmp_path: Path) -> None:
    state: dict[str, Any] = {}

    def prepare(container: Any, stream: Any) -> None:
        cover = container.add_stream("png", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = ATTACHED_PIC
        state["cover"] = cover

    def before_mux(container: Any) -> None:
        container.mux(state["cover"].encode(to_av([picture(5)], "rgb24")))
        container.mux(state["cover"].encode(None))

    clip = write_clip(tmp_path / "in.mp4", 4, codec="libx264", prepare=prepare, before_mux=before_mux)
    for extension in (".mp4", ".mkv"):
        output = tmp_path / f"out{extension}"
        outcome = command(clip, output, "--levels", 1)
        assert outcome.code == 0, outcome.said
        with av.open(str(output)) as container:
            covers = [s for s in container.streams.video if is_cover(s)]
            assert len(covers) == 1
            assert len(container.streams.video) == 2
            image = next(container.decode(covers[0])).to_ndarray(format="rgb24")
        assert np.array_equal(image, picture(5))
        assert len(read_times(output)) == 8


DISPLAY = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"  # P3, 1000 to 0.005 cd/m2


def light(path: Path) -> dict[str, bytes]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        wanted = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
        return {name: data for name, data in side_data(frame).items() if name in wanted}


def rationals(data: bytes) -> list[float]:
    numbers = np.frombuffer(data[:80], np.int32).astype(float)
    return list(numbers[::2] / numbers[1::2])


@pytest.mark.parametrize("codec", ["hevc", "h264", "av1"])
def test_hdr10_metadata_passes(command: Command, tmp_path: Path, codec: str) -> None:
    options = {"x265-params": f"log-level=error:master-display={DISPLAY}:max-cll=1000,400"}
    clip = write_clip(
        tmp_path / "in.mkv", 2, codec="libx265", pix_fmt="yuv420p10le", size=(96, 64), options=options
    )
    before = light(clip)
    assert len(before) == 2
    output = tmp_path / "out.mkv"
    assert command(clip, output, "--levels", 1, "--codec", codec).code == 0
    after = light(output)
    assert after["CONTENT_LIGHT_LEVEL"] == before["CONTENT_LIGHT_LEVEL"]
    assert np.frombuffer(after["CONTENT_LIGHT_LEVEL"], np.uint32).tolist() == [1000, 400]
    expected = [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000]
    assert rationals(before["MASTERING_DISPLAY_METADATA"]) == pytest.approx(expected)
    # AV1 has binary fractions of 16 and 14 bits.
    assert rationals(after["MASTERING_DISPLAY_METADATA"]) == pytest.approx(expected, abs=1e-4)


def test_hdr10_metadata_that_cannot_be_stored_is_named(command: Command, tmp_path: Path) -> None:
    options = {"x265-params": "log-level=error:max-cll=1000,400"}
    clip = write_clip(tmp_path / "in.mkv", 2, codec="libx265", size=(96, 64), options=options)
    assert "HDR10" in command(clip, tmp_path / "out.webm", "--levels", 1).said
