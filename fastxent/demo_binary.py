"""The demo's network with one sigmoid output, trained to tell malignant tumours from benign ones.

As in demo.py, with one logit a row, z2, and its label y of 0 or 1:

    p = sigmoid(z2)       dz2 = (p - y) / N

fastxent gives the loss and dz2; `textbook_loss` gives the same two by the formulas of a textbook.
"""

from __future__ import annotations

import numpy as np

import fastxent as fx
from fastxent.demo import SEED, Loss, Network, Recipe, Samples
from fastxent.precision import Array

__all__ = [
    "HIDDEN",
    "RECIPE",
    "Tumours",
    "fused_loss",
    "load_tumours",
    "random_network",
    "sigmoid",
    "textbook_loss",
]

HIDDEN = 16


def is_malignant(z2: Array) -> Array:
    """Whether the probability is above one half."""
    answers: Array = z2[:, 0] > 0.0
    return answers


# Over 12 seeds of split, weights and noise the test accuracy is 97.1 % on average and 95.6 % at
# worst. The inputs have a standard deviation of 1.
RECIPE = Recipe(rate=0.1, noise=0.5, answer=is_malignant)


class Tumours(Samples):
    """569 tumours of the breast, 30 measurements of cell nuclei a row; 1 is malignant."""


def load_tumours(seed: int = SEED) -> Tumours:
    """Load scikit-learn's breast cancer data; a fifth of each class is for the test."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    x, is_benign = datasets.load_breast_cancer(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x, 1 - is_benign, test_size=0.2, stratify=is_benign, random_state=seed
    )
    # by the numbers of the training alone: the test is to be unseen
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    return Tumours((x_train - mean) / deviation, y_train, (x_test - mean) / deviation, y_test)


def random_network(rng: np.random.Generator, inputs: int = 30, hidden: int = HIDDEN) -> Network:
    """Draw weights for inputs of order one, and one output."""
    network = Network.random(rng, pixels=inputs, hidden=hidden, classes=1)
    return network._replace(W1=network.W1 / 4.0)


def fused_loss(backend: str | None = None) -> Loss:
    """Loss and dz2 from one pass of fastxent."""

    def loss_and_gradient(z2: Array, y: Array) -> tuple[float, Array]:
        loss, dz2 = fx.binary_cross_entropy_with_logits_and_grad(
            z2, y.reshape(z2.shape), backend=backend
        )
        return float(loss), dz2

    return loss_and_gradient


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z))."""
    p: Array = 1.0 / (1.0 + np.exp(-z))
    return p


def textbook_loss(z2: Array, y: Array) -> tuple[float, Array]:
    """Loss and dz2 as a textbook has them: -log p or -log(1 - p), then (p - y) / N."""
    y = y.reshape(z2.shape)
    p = sigmoid(z2)
    loss = -np.where(y == 1, np.log(p), np.log(1.0 - p)).mean()
    return float(loss), (p - y) / p.size
