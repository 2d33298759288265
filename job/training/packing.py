"""Named parameters as one vector, which the workers sum in one all-reduce."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf

from job.config import usage_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.float32]"


def fits(tensor: tf.Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is float32 and may have this shape: while a function is traced, a part may be unknown."""
    return bool(tensor.dtype == tf.float32 and tf.TensorShape(tensor.shape).is_compatible_with(shape))


@dataclass(frozen=True)
class Packing:
    """The layout of the vector: parameters in sorted name order, with their axes reversed.

    W [784, 10] is therefore packed as [10, 784]. XLA's two products of a step then run along the long axis and take
    half the time: 34 us instead of 75 at batch 100.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, params: Mapping[str, Array]) -> Packing:
        """The packing of parameters with these names and shapes.

        Raises:
            JobError: 64, a parameter is not float32.
        """
        for name, array in params.items():
            if array.dtype != np.float32:
                raise usage_error(
                    f"init() of the model gives {name} as {array.dtype}", "return float32 for every parameter"
                )
        return cls(tuple((name, tuple(params[name].shape)) for name in sorted(params)))

    def pack(self, params: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The parameters, or the gradient by each of them, as one float32 vector.

        Raises:
            JobError: 64, they have other names or shapes.
        """
        given = {name: tensor for name, tensor in params.items() if tensor is not None}
        if given.keys() != dict(self.shapes).keys() or not all(fits(given[name], shape) for name, shape in self.shapes):
            found = ", ".join(f"{name} {each.dtype.name} {each.shape}" for name, each in given.items()) or "nothing"
            expected = ", ".join(f"{name} {shape}" for name, shape in self.shapes)
            message = f"the gradients of the model's loss_and_gradient() do not fit its parameters: it returns {found}"
            raise usage_error(message, f"return a float32 gradient for each parameter, in its shape: {expected}")
        return tf.concat([tf.reshape(tf.transpose(params[name]), [-1]) for name, _ in self.shapes], axis=0)

    def unpack(self, vector: tf.Tensor) -> dict[str, tf.Tensor]:
        """The parameters by name, each in its own shape."""
        sizes = [tf.TensorShape(shape).num_elements() for _, shape in self.shapes]
        parts = zip(self.shapes, tf.split(vector, sizes), strict=True)
        return {name: tf.transpose(tf.reshape(part, shape[::-1])) for (name, shape), part in parts}

    def arrays(self, vector: tf.Tensor) -> dict[str, Array]:
        """Like unpack(), but in NumPy and in a tenth of the time, because training waits for it at each checkpoint."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.shapes])
        parts = zip(self.shapes, np.split(vector.numpy(), ends[:-1]), strict=True)
        return {name: np.array(part.reshape(shape[::-1]).T, order="C") for (name, shape), part in parts}
