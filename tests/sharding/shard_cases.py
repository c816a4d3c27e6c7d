"""Cases of a loss over shards: what each rank is given, and what all of them must give together."""

from dataclasses import dataclass, field

import numpy as np

import fastxent as fx

RANKS = (1, 2, 3, 5)


def spread(classes, ranks):
    """Where the shards begin and end: as even as can be, the first ones larger."""
    bounds = [-(-classes * rank // ranks) for rank in range(ranks)]
    return [*bounds, classes]


@dataclass(frozen=True)
class ShardCase:
    """Rows and options; `bounds` has where the classes of each rank begin, and the end."""

    name: str
    bounds: tuple
    options: dict = field(default_factory=dict)
    rows: int = 6
    dtype: str = "float32"
    soft: bool = False
    labels: tuple = ()
    change: str = ""
    merge: str = "reduce"
    backend: str | None = None

    @property
    def ranks(self):
        return len(self.bounds) - 1

    @property
    def classes(self):
        return self.bounds[-1]

    def arrays(self):
        """Logits of all classes and target."""
        random = np.random.default_rng(len(self.name))
        logits = random.normal(size=(self.rows, self.classes), scale=3).astype(self.dtype)
        if self.soft:
            target = random.dirichlet(np.ones(self.classes), self.rows).astype(self.dtype)
        else:
            target = random.integers(0, self.classes, self.rows)
            target[: len(self.labels)] = self.labels
        CHANGES.get(self.change, lambda *_: None)(self, logits, target)
        return logits, target

    def given(self):
        """Options with arrays of the numbers of rows and classes that they need."""
        random = np.random.default_rng(7)
        filled = dict(self.options)
        if filled.get("weight") == "some":
            filled["weight"] = random.uniform(0, 2, self.classes)
        if filled.get("sample_weight") == "some":
            filled["sample_weight"] = random.uniform(0, 2, self.rows)
        return filled

    def shard(self, rank):
        return slice(self.bounds[rank], self.bounds[rank + 1])

    def expected(self, grad_output=None):
        """Loss, gradient and side outputs of a single call."""
        logits, target = self.arrays()
        with np.errstate(all="ignore"):
            return fx.cross_entropy_and_grad(
                logits, target, **self.given(), grad_output=grad_output, backend=self.backend
            )

    def merged(self):
        """Loss and gradient from one entry a shard, merged in the order of the classes."""
        logits, target = self.arrays()
        given = self.given() | {"num_classes": self.classes, "backend": self.backend}
        of_logits = {name: given[name] for name in OF_LOGITS if name in given}
        of_loss = {name: given[name] for name in given if name not in ("softcap", "logit_scale")}
        shards = [self.shard(rank) for rank in range(self.ranks)]
        places = [{"class_offset": here.start} for here in shards]
        targets = [target[:, here] if self.soft else target for here in shards]
        stats = fx.merge_stats(
            *(
                fx.partial_stats(logits[:, here], one, **place, **of_logits)
                for here, one, place in zip(shards, targets, places, strict=True)
            )
        )
        grads = [
            fx.grad_from_stats(logits[:, here], one, stats, **place, **given)
            for here, one, place in zip(shards, targets, places, strict=True)
        ]
        return fx.loss_from_stats(stats, targets[0], **of_loss), np.concatenate(grads, axis=1)


OF_LOGITS = ("num_classes", "backend", "weight", "label_smoothing", "softcap", "logit_scale")


def _mask_shard(case, logits, target):
    logits[:, case.shard(case.ranks // 2)] = -np.inf


def _mask_rows(case, logits, target):
    logits[1] = -np.inf
    logits[2, 0] = np.nan
    logits[3, -1] = np.inf
    logits[4, case.shard(0)] = np.nan


def _spoil_ignored(case, logits, target):
    target[1::2] = -100
    logits[1::2] = np.nan


def _peak(case, logits, target):
    logits /= 30
    logits[np.arange(case.rows), target] = logits.max(axis=1) + np.resize([12, 15, 18], case.rows)


CHANGES = {"mask shard": _mask_shard, "mask rows": _mask_rows, "ignore": _spoil_ignored}
CHANGES["peak"] = _peak

OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "weight": {"weight": "some"},
    "smoothing": {"label_smoothing": 0.2},
    "weight and smoothing": {"weight": "some", "label_smoothing": 0.3, "reduction": "none"},
    "sample weight": {"sample_weight": "some"},
    "normalizer": {"normalizer": 17.0},
    "z loss": {"z_loss": 0.01, "label_smoothing": 0.1},
    "softcap": {"softcap": 5.0, "logit_scale": 1.5},
    "everything": {
        "weight": "some",
        "label_smoothing": 0.1,
        "sample_weight": "some",
        "z_loss": 0.02,
        "softcap": 9.0,
        "logit_scale": 0.7,
        "normalizer": 3.0,
    },
}
ASIDES = ("lse", "log_prob", "argmax", "correct", "entropy", "z_loss")


def _cases():
    for ranks in RANKS:
        even = tuple(spread(37, ranks))
        for name, options in OPTIONS.items():
            yield ShardCase(f"{name} on {ranks}", even, options)
            yield ShardCase(f"{name} of probabilities on {ranks}", even, options, soft=True)
        for merge in ("reduce", "in_order"):
            yield ShardCase(f"side outputs, {merge} on {ranks}", even, _with_asides(), merge=merge)
        for soft in (False, True):
            options = {"label_smoothing": 0.1, "weight": "some"}
            yield ShardCase(
                f"in order, {soft} on {ranks}", even, options, soft=soft, merge="in_order"
            )
        first = tuple(bound for bound in even[:-1])
        yield ShardCase(f"labels first of each on {ranks}", even, labels=first)
        last = tuple(bound - 1 for bound in even[1:])
        yield ShardCase(f"labels last of each on {ranks}", even, labels=last)
        for at in range(ranks):
            labels = (even[at],) * 6
            yield ShardCase(f"all labels in {at} of {ranks}", even, _smooth(at), labels=labels)
        yield ShardCase(f"ignored rows on {ranks}", even, {"label_smoothing": 0.1}, change="ignore")
        yield ShardCase(f"ignored, with asides on {ranks}", even, _with_asides(), change="ignore")
        nothing = {"ignore_index": 3, "all_ignored": "zero"}
        yield ShardCase(f"nothing counts on {ranks}", even, nothing, labels=(3,) * 6)
        rows = {"reduction": "none", "label_smoothing": 0.1, "aux": ("argmax", "lse")}
        yield ShardCase(f"rows without a number on {ranks}", even, rows, change="mask rows")
        yield ShardCase(f"no rows on {ranks}", even, {"label_smoothing": 0.1}, rows=0)
        for merge in ("reduce", "in_order"):
            # losses of 1e-5 to 1e-8
            name = f"peaks at the labels, {merge} on {ranks}"
            none = {"reduction": "none"}
            yield ShardCase(name, tuple(spread(5, ranks)), none, change="peak", merge=merge)
        for dtype in ("float16", "float64"):
            yield ShardCase(f"{dtype} on {ranks}", even, {"label_smoothing": 0.1}, dtype=dtype)
    for ranks in RANKS[1:]:
        even = tuple(spread(37, ranks))
        labels = (0, 0, 1, 0, 1, 1) if ranks == 2 else (0, 0, 36, 0, 36, 36)
        masked = {"reduction": "none"}
        yield ShardCase(
            f"masked shard on {ranks}", even, masked, labels=labels, change="mask shard"
        )
    for empty in (0, 1, 2):
        bounds = (
            [0, 0, 11, 37] if empty == 0 else [0, 11, 11, 37] if empty == 1 else [0, 11, 37, 37]
        )
        for merge in ("reduce", "in_order"):
            name = f"shard {empty} is empty, {merge}"
            yield ShardCase(name, bounds, _with_asides(), merge=merge)
            yield ShardCase(f"{name}, soft", bounds, {"z_loss": 0.1}, soft=True, merge=merge)
    yield ShardCase("all but one are empty", (0, 0, 0, 0, 37, 37), _with_asides())


def _with_asides():
    return {"label_smoothing": 0.1, "z_loss": 0.01, "aux": ASIDES}


def _smooth(at):
    return {"label_smoothing": 0.1 * at}


CASES = {case.name: case for case in _cases()}

_BLOCKS = {
    1: (0, 5220),
    2: (0, 3072, 5220),
    3: (0, 1024, 4096, 5220),
    5: (0, 1024, 2048, 2048, 4096, 5220),
}


def _in_blocks():
    """Bit for bit: more than 100 classes, and shards that begin at blocks."""
    for ranks, bounds in _BLOCKS.items():
        for name, options in OPTIONS.items():
            # each kind of kernel costs Numba seconds
            for backend in ("cython", "numba") if name == "smoothing" else ("cython",):
                told = f"{name} in blocks on {ranks} by {backend}"
                how = {"rows": 3, "merge": "in_order", "backend": backend}
                yield ShardCase(told, bounds, options, soft=name == "softcap", **how)


IN_BLOCKS = {case.name: case for case in _in_blocks()}


def _unaligned():
    """The same bits on every rank and in every run, but not those of other divisions."""
    for ranks, bounds in {2: (0, 1023, 5220), 3: (0, 1025, 1025, 5220), 5: (0, *_FIFTHS)}.items():
        for name in ("none", "weight and smoothing", "softcap"):
            how = {"rows": 3, "merge": "in_order", "backend": "cython", "soft": name == "softcap"}
            yield ShardCase(f"{name} between blocks on {ranks}", bounds, OPTIONS[name], **how)


_FIFTHS = (1044, 2088, 3132, 4176, 5220)
UNALIGNED = {case.name: case for case in _unaligned()}


def assert_close(found, expected, rows, ulps=4):
    """Equal within so many units in the last place; of a gradient, of the largest in its row."""
    loss, grad = found
    loss_dtype = np.asarray(expected[0]).dtype
    same = np.dtype(np.float64)
    a, b = np.asarray(loss, same), np.asarray(expected[0], same)
    assert np.asarray(loss).dtype == loss_dtype
    assert a.shape == b.shape
    # In float64 log(sum(exp)) of a sum near 1 has the roundings of numbers near 1; float32 losses
    # are made in float64, and hold to the units of their own size.
    size = np.abs(b) if loss_dtype == np.float32 else np.maximum(np.abs(b), 1.0)
    _assert_within(a, b, ulps * np.finfo(loss_dtype).eps * size)
    a, b = np.asarray(grad, same), np.asarray(expected[1], same)
    assert grad.dtype == expected[1].dtype
    assert a.shape == b.shape
    if rows:
        with np.errstate(invalid="ignore"):
            largest = np.abs(b).max(axis=1, keepdims=True)
        _assert_within(a, b, ulps * np.finfo(grad.dtype).eps * largest)


def _assert_within(a, b, room):
    with np.errstate(invalid="ignore"):
        far = ~((np.abs(a - b) <= room) | (a == b) | (np.isnan(a) & np.isnan(b)))
    assert not far.any(), (a[far][:5], b[far][:5])


def assert_same_asides(found, expected, dtype):
    for name, one in expected._asdict().items():
        given = found[name]
        assert (given is None) == (one is None), name
        if one is not None and one.dtype.kind in "ib":
            np.testing.assert_array_equal(given, one, err_msg=name)
        elif one is not None:
            room = 4 * np.finfo(dtype).eps * np.maximum(np.abs(one), 1.0)
            _assert_within(np.asarray(given, "f8"), np.asarray(one, "f8"), room)
