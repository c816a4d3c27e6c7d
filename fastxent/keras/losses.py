"""The loss objects: constructors, configuration and reductions are those of Keras."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.backend.common.masking import set_keras_mask

from fastxent import checks
from fastxent.checks.keras import check_exact_labels, check_from_logits
from fastxent.keras.rows import class_indices, row_losses

__all__ = ["CategoricalCrossentropy", "SparseCategoricalCrossentropy"]


def _without_last_one(y_true: Any, y_pred: Any) -> Any:
    """Targets without a last axis of length 1 that the predictions do not have."""
    if len(y_true.shape) == len(y_pred.shape) + 1 and y_true.shape[-1] == 1:
        return keras.ops.squeeze(y_true, axis=-1)
    return y_true


@keras.saving.register_keras_serializable(package="fastxent")
class CategoricalCrossentropy(keras.losses.CategoricalCrossentropy):  # type: ignore[misc]
    """Cross-entropy for probabilities or one-hot rows; stands in for that of `keras.losses`.

    Parameters
    ----------
    from_logits : bool
        Must be True: the softmax is part of this loss. The default is that of Keras, False, and an
        error.
    label_smoothing : float, default 0.0
        Share, in [0, 1], of each target that is spread evenly over all classes.
    axis : int, default -1
        Where the classes are, for smoothing too.
    reduction : str or None, default "sum_over_batch_size"
        As in Keras: also "mean", "sum", "mean_with_sample_weight", "none".
    name : str, default "categorical_crossentropy"
    dtype : str or keras.DTypePolicy, optional
        Of the computation; predictions and targets are converted to it. By default
        ``keras.config.floatx()``.

    Raises
    ------
    OptionError
        `from_logits` is not True, or `label_smoothing` is out of range. Also a ``ValueError``.

    Notes
    -----
    Sample weights, masks and reductions are those of Keras. Gradients go to predictions and to
    targets.

    Examples
    --------
    >>> import numpy as np
    >>> import fastxent.keras as fxk
    >>> loss = fxk.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, reduction="sum")
    >>> y_true = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    >>> y_pred = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> round(float(loss(y_true, y_pred)), 3)
    3.91
    """

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        check_from_logits(from_logits, type(self).__name__)
        label_smoothing = checks.check_label_smoothing(label_smoothing)
        super().__init__(
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute one loss a row.

        Parameters
        ----------
        y_true, y_pred : tensors of the same shape
            Probabilities and logits.

        Returns
        -------
        tensor
            Shape of `y_pred` without the class axis.
        """
        y_true = _without_last_one(y_true, y_pred)
        return row_losses(y_pred, y_true, self.axis, None, self.label_smoothing)

    def get_config(self) -> dict[str, Any]:
        """Give what `from_config` makes the same loss of."""
        return {**super().get_config(), "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="fastxent")
class SparseCategoricalCrossentropy(
    keras.losses.SparseCategoricalCrossentropy  # type: ignore[misc]
):
    """Cross-entropy for class indices; stands in for that of `keras.losses`.

    Parameters
    ----------
    from_logits : bool
        Must be True: the softmax is part of this loss. The default is that of Keras, False, and an
        error.
    ignore_class : int, optional
        Rows with this label have no loss, do not count in a mean, and their logits are not read.
    reduction : str or None, default "sum_over_batch_size"
        As in Keras: also "mean", "sum", "mean_with_sample_weight", "none".
    axis : int, default -1
        Where the classes are; any, where Keras takes the last one only.
    name : str, default "sparse_categorical_crossentropy"
    dtype : str or keras.DTypePolicy, optional
        Of the computation; predictions are converted to it. By default
        ``keras.config.floatx()``.

    Raises
    ------
    OptionError
        `from_logits` is not True. Also a ``ValueError``. When called: `dtype` cannot hold every
        label, to which Keras converts them.
    LabelError
        When called: a label lies outside [0, C) and is not `ignore_class`, or is no whole number,
        where the adapter of the backend can tell.
    DTypeError
        When called: `dtype` is not one of floating-point numbers. Also a ``TypeError``.

    Notes
    -----
    Sample weights, masks and reductions are those of Keras.

    Examples
    --------
    >>> import numpy as np
    >>> import fastxent.keras as fxk
    >>> loss = fxk.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    >>> y_pred = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
    >>> round(float(loss(np.array([1, -1]), y_pred)), 3)
    1.417
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        check_from_logits(from_logits, type(self).__name__)
        ignore_class = checks.check_ignore_index(ignore_class, hard=True)
        super().__init__(
            from_logits=from_logits,
            ignore_class=ignore_class,
            reduction=reduction,
            axis=axis,
            name=name,
            dtype=dtype,
        )
        self.axis = axis

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Compute one loss a row.

        Parameters
        ----------
        y_true : tensor, shape of `y_pred` without the class axis, or with 1 there
            Class indices, of any dtype.
        y_pred : tensor
            Logits.

        Returns
        -------
        tensor
            Shape of `y_pred` without the class axis; with a mask for Keras where there is an
            `ignore_class`.
        """
        check_exact_labels(self.dtype, y_pred.shape[self.axis], self.ignore_class)
        y_true = _without_last_one(y_true, y_pred)
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[self.axis] == 1:
            y_true = keras.ops.squeeze(y_true, axis=self.axis)
        labels = class_indices(y_true)
        losses = row_losses(y_pred, labels, self.axis, self.ignore_class, 0.0)
        if self.ignore_class is not None:
            # where Keras looks for the rows that count; it offers no public function for it
            set_keras_mask(losses, keras.ops.not_equal(labels, self.ignore_class))
        return losses

    def get_config(self) -> dict[str, Any]:
        """Give what `from_config` makes the same loss of."""
        return {**super().get_config(), "axis": self.axis, "dtype": self.dtype}
