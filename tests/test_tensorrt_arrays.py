"""Device memory shared with other libraries, on a device in software whose memory NumPy and torch can read."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from software_cuda import BlendEngines, RaceError, SoftwareDevice, blend_stream
from test_tensorrt_backend import clip, same

from vtsr import InputError
from vtsr.runtime.frame import PixelFormat
from vtsr.runtime.tensorrt.arrays import DLPACK_CPU, DLPACK_CUDA, DeviceArray, device_array
from vtsr.runtime.tensorrt.backend import TensorRTBackend
from vtsr.runtime.tensorrt.embedding import DeviceUpconverter
from vtsr.runtime.tensorrt.settings import Settings

CPU, GPU = (DLPACK_CPU, 0), (DLPACK_CUDA, 0)
Image = NDArray[np.uint8]


def shared(array: NDArray[Any], **options: Any) -> DeviceArray:
    return DeviceArray(array.ctypes.data, array.shape, array.dtype, owner=array, dlpack_type=CPU, **options)


def upconverter(levels: int, device: SoftwareDevice, **settings: Any) -> DeviceUpconverter:
    return DeviceUpconverter(TensorRTBackend(device, BlendEngines(levels), Settings(levels=levels, **settings)), levels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int64])
def test_numpy_reads_an_exported_array_where_it_is(dtype: Any) -> None:
    values = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    read = np.from_dlpack(shared(values))
    assert np.array_equal(read, values)
    assert read.dtype == values.dtype
    assert read.ctypes.data == values.ctypes.data


def test_torch_reads_an_exported_array_and_gives_it_back() -> None:
    torch = pytest.importorskip("torch")
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    tensor = torch.from_dlpack(shared(values))
    tensor[1, 2] = 99
    assert values[1, 2] == 99


def test_the_owner_lives_as_long_as_what_others_made_of_the_array() -> None:
    class Owner:
        pass

    owner = Owner()
    gone = weakref.ref(owner)
    values = np.zeros(8, np.uint8)
    array = DeviceArray(values.ctypes.data, (8,), np.uint8, owner=owner, dlpack_type=CPU)
    read = np.from_dlpack(array)
    never_taken = array.__dlpack__()
    del owner, array
    gc.collect()
    assert gone() is not None
    del read
    gc.collect()
    assert gone() is not None
    del never_taken
    gc.collect()
    assert gone() is None


def test_a_consumers_stream_waits_before_it_reads() -> None:
    told: list[int] = []
    array = shared(np.zeros(4, np.uint8), lead=told.append)
    array.__dlpack__(stream=77)
    array.__dlpack__(stream=1)  # how DLPack writes the default stream
    array.__dlpack__(stream=-1)  # no order asked for
    assert told == [77, 0]


def test_the_cuda_array_interface_states_address_type_and_stream() -> None:
    facts = DeviceArray(4096, (2, 3), np.uint16, stream=5).__cuda_array_interface__
    assert facts == {
        "shape": (2, 3), "typestr": "<u2", "data": (4096, False), "strides": None, "version": 3, "stream": 5
    }  # fmt: skip


class WithInterface:
    def __init__(self, **facts: Any) -> None:
        self.__cuda_array_interface__ = {"version": 3, "data": (8192, False), "typestr": "|u1", **facts}


def test_arrays_with_the_cuda_array_interface_are_taken_with_their_stream() -> None:
    array, stream = device_array(WithInterface(shape=(4, 6, 3), stream=9, strides=(18, 3, 1)), GPU)
    assert (array.address, array.shape, array.dtype, stream) == (8192, (4, 6, 3), np.dtype(np.uint8), 9)
    assert device_array(WithInterface(shape=(4,), stream=1), GPU)[1] == 0
    assert device_array(WithInterface(shape=(4,)), GPU)[1] is None


def test_arrays_with_dlpack_are_taken_and_given_back() -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    gone = weakref.ref(values)
    array, stream = device_array(values, CPU)
    assert (array.address, array.shape, stream) == (values.ctypes.data, (2, 3), None)
    del values
    gc.collect()
    assert gone() is not None
    del array
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("given", "kind", "why"),
    [
        (WithInterface(shape=(4, 6), strides=(12, 1)), GPU, "C-contiguous"),
        (np.zeros((4, 6), np.uint8)[:, ::2], CPU, "C-contiguous"),
        (np.zeros((4, 6), np.uint8), GPU, "on the device"),
        ("frame.png", GPU, "__dlpack__, which str has not"),
    ],
)
def test_what_cannot_be_read_in_place_is_refused(given: Any, kind: tuple[int, int], why: str) -> None:
    with pytest.raises(InputError, match=why):
        device_array(given, kind)


# Device frames in, device frames out


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("pace", ["random", "lazy"])
@pytest.mark.parametrize("misaligned", [0, 4])
def test_device_frames_follow_the_callers_stream_both_ways(levels: int, pace: str, misaligned: int) -> None:
    """The caller writes every frame to the same memory and reads results in its own stream; nothing collides."""
    images = clip(8)
    for seed in range(6):
        device = SoftwareDevice(seed, pace=pace)
        stream = device.foreign_stream()
        found: list[Image] = []

        def read(pictures: list[tuple[DeviceArray, ...]], device=device, stream=stream, found=found) -> None:  # type: ignore[no-untyped-def]
            for (picture,) in pictures:
                slot = np.zeros(picture.shape, np.uint8)
                found.append(slot)

                def copy(picture: DeviceArray = picture, slot: Image = slot) -> None:
                    slot[:] = device.view(picture.address, picture.shape, picture.dtype)

                device.on_foreign(stream, "caller reads", copy, reads=[(picture.address, picture.nbytes)])

        up = upconverter(levels, device)
        address, memory = device.external_memory(images[0].nbytes, offset=misaligned)
        given = DeviceArray(address, images[0].shape, np.uint8, dlpack_type=device.dlpack_type)
        for image in images:

            def write(image: Image = image, memory: Image = memory) -> None:
                memory[:] = image.reshape(-1)

            device.on_foreign(stream, "caller writes", write, writes=[(address, image.nbytes)])
            read(up.push(given, stream=stream))
        read(up.flush(stream=stream))
        up.close()
        assert same(found, blend_stream(images, levels))


def test_a_caller_who_names_no_stream_is_found_out() -> None:
    """The check above can fail: writing in one stream and pushing with another is a race."""
    images = clip(8)
    noticed = False
    for seed in range(30):
        device = SoftwareDevice(seed)
        stream = device.foreign_stream()
        up = upconverter(1, device)
        address, memory = device.external_memory(images[0].nbytes)
        given = DeviceArray(address, images[0].shape, np.uint8, dlpack_type=device.dlpack_type)
        try:
            for image in images:

                def write(image: Image = image, memory: Image = memory) -> None:
                    memory[:] = image.reshape(-1)

                device.on_foreign(stream, "caller writes", write, writes=[(address, image.nbytes)])
                up.push(given)  # in the default stream
            up.close()
        except RaceError:
            noticed = True
            break
    assert noticed


def test_results_keep_their_memory_until_the_last_consumer_is_gone() -> None:
    images = clip(10)
    device = SoftwareDevice(3)
    up = upconverter(1, device)
    kept = []
    for image in images:
        memory, contents = device.external_memory(image.nbytes)
        contents[:] = image.reshape(-1)
        given = DeviceArray(memory, image.shape, np.uint8, dlpack_type=device.dlpack_type)
        kept += [np.from_dlpack(picture) for (picture,) in up.push(given)]
    kept += [np.from_dlpack(picture) for (picture,) in up.flush()]
    with device.scope():
        device.synchronize_all()
    assert same([np.asarray(picture) for picture in kept], blend_stream(images, 1))
    taken = device.allocated
    del kept
    gc.collect()
    for image in images:
        memory, contents = device.external_memory(image.nbytes)
        contents[:] = image.reshape(-1)
        up.push(DeviceArray(memory, image.shape, np.uint8, dlpack_type=device.dlpack_type))
    assert device.allocated <= taken
    up.close()


def test_torch_tensors_go_in_and_come_out() -> None:
    torch = pytest.importorskip("torch")
    images = clip(5, 24, 40)
    device = SoftwareDevice(1, pace="eager")
    outputs = []
    with upconverter(2, device) as up:
        # Tensors of torch have no aligned address on the CPU, and are not known to this device as memory.
        for image in images:
            address, memory = device.external_memory(image.nbytes)
            tensor = torch.from_numpy(memory.reshape(image.shape))
            tensor.copy_(torch.from_numpy(image))
            assert tensor.data_ptr() == address
            outputs += [torch.from_dlpack(picture).clone().numpy() for (picture,) in up.push(tensor)]
        outputs += [torch.from_dlpack(picture).clone().numpy() for (picture,) in up.flush()]
    assert same(outputs, blend_stream(images, 2))


def test_a_push_without_planes_and_planes_of_another_shape_are_refused() -> None:
    device = SoftwareDevice()
    with upconverter(1, device) as up:
        with pytest.raises(InputError, match="planes of one picture"):
            up.push()
        with pytest.raises(InputError, match="consists of"):
            up.push(shared(np.zeros((4, 6), np.uint8)))
        assert up._format == PixelFormat()
