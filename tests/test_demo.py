"""The demo's network: gradients by finite differences, the textbook's curve, the accuracy."""

import subprocess
import sys

import numpy as np
import pytest

import fastxent as fx
from fastxent import cli, demo, demo_binary, demo_picture, demo_report, demo_speed
from fastxent.conformance import finite_difference_grad

MISSING = demo_report.missing_extras()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

ABLE = [name for name, reason in fx.backends().items() if reason is None]


@pytest.fixture(scope="module")
def digits():
    return demo.load_digits()


def network(seed=0, **sizes):
    return demo.Network.random(np.random.default_rng(seed), **sizes)


def test_digits_are_split_by_class(digits):
    assert digits.x_train.shape == (1437, 64)
    assert digits.x_test.shape == (360, 64)
    assert digits.x_train.dtype == np.float64
    assert (digits.x_train.min(), digits.x_train.max()) == (0.0, 1.0)
    share = np.bincount(digits.y_test) / np.bincount(np.append(digits.y_train, digits.y_test))
    np.testing.assert_allclose(share, 0.2, atol=0.01)


@pytest.mark.parametrize("loss", [demo.fused_loss(), demo.textbook_loss], ids=["fused", "textbook"])
@pytest.mark.parametrize("parameter", range(4), ids=demo.Network._fields)
def test_network_gradient_by_finite_differences(loss, parameter):
    rng = np.random.default_rng(1)
    small = network(pixels=5, hidden=4, classes=3)
    x, y = rng.random((7, 5)), rng.integers(0, 3, 7)
    a1, z2 = small.forward(x)
    gradients = small.backward(x, a1, loss(z2, y)[1])

    def loss_of(values):
        changed = [*small[:parameter], values, *small[parameter + 1 :]]
        return loss(demo.Network(*changed).forward(x)[1], y)[0]

    numerical = finite_difference_grad(loss_of, small[parameter], 1e-5)
    np.testing.assert_allclose(gradients[parameter], numerical, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("backend", ABLE)
def test_short_training_equals_the_textbook(digits, backend):
    one, other = network(), network()
    fused = demo.train(one, digits, demo.fused_loss(backend), epochs=3)
    textbook = demo.train(other, digits, demo.textbook_loss, epochs=3)
    assert fused.largest_difference(textbook) <= 1e-9
    assert fused.accuracy == textbook.accuracy
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_the_same_seed_is_the_same_training(digits):
    first, again, third = (
        demo.train(network(), digits, demo.fused_loss(), epochs=1, seed=seed).batch_loss
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != third


def test_a_wrong_gradient_shows_as_a_difference(digits):
    def wrong(z2, y):
        loss, dz2 = demo.textbook_loss(z2, y)
        return loss, dz2 * 1.001

    curves = [demo.train(network(), digits, f, epochs=1) for f in (wrong, demo.textbook_loss)]
    assert curves[0].largest_difference(curves[1]) > 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_default_training_reaches_the_accuracy(digits, seed):
    curves = demo.train(network(seed), digits, demo.fused_loss(), seed=seed)
    assert curves.accuracy[-1] >= demo_report.NEEDED_ACCURACY
    assert len(curves.accuracy) == len(curves.train_loss) == len(curves.test_loss) == demo.EPOCHS


def picture_of(path):
    from matplotlib.image import imread

    return imread(path)


def test_demo_as_a_user_runs_it(tmp_path):
    out = tmp_path / "a" / "b"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fastxent", "demo", "--no-speed", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"epoch {demo.EPOCHS:3d}/{demo.EPOCHS}" in result.stdout
    assert "ok: test accuracy 9" in result.stdout
    assert "ok: largest difference from the losses of textbook NumPy" in result.stdout
    assert f"picture: {out / 'digits.png'}" in result.stdout.replace("\n", "")
    height, width, _ = picture_of(out / "digits.png").shape
    assert width > height > 500


def test_demo_fails_when_the_accuracy_is_too_low(tmp_path, capsys):
    code = cli.main(["demo", "--no-speed", "--epochs", "1", "--out", str(tmp_path)])
    assert code == 1
    assert "FAILED: test accuracy" in capsys.readouterr().out
    assert (tmp_path / "digits.png").exists()


def test_demo_fails_when_the_training_differs(tmp_path, capsys, monkeypatch):
    def wrong(backend):
        return lambda z2, y: (demo.textbook_loss(z2, y)[0], demo.textbook_loss(z2, y)[1] * 1.001)

    monkeypatch.setattr(demo_report, "fused_loss", wrong)
    assert cli.main(["demo", "--no-speed", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "ok: test accuracy" in printed
    assert "FAILED: largest difference" in printed


def test_out_must_be_a_directory(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err


def test_picture_shows_each_digit_once_and_wrong_ones_first():
    wrong = np.zeros(360, bool)
    wrong[[5, 300]] = True
    chosen = demo_picture._chosen(wrong)
    assert list(chosen[:2]) == [5, 300]
    assert len(set(chosen)) == len(chosen) == demo_picture.ROWS * demo_picture.COLUMNS
    assert wrong[demo_picture._chosen(~wrong)].sum() == 2


def test_times_are_of_results_that_agree():
    timings = demo_speed.measure((64, 100), repeats=2)
    assert [timing.name for timing in timings] == ["textbook", *ABLE]
    assert all(timing.agrees for timing in timings)
    assert all(timing.gigabytes_per_second > 0 for timing in timings)


def test_a_wrong_result_shows_in_the_table_of_times(monkeypatch, tmp_path, capsys):
    def wrong(z2, y):
        loss, dz2 = demo.textbook_loss(z2, y)
        return loss, dz2 * 1.01

    monkeypatch.setattr(demo_speed, "textbook_loss", wrong)
    monkeypatch.setattr(demo_speed, "SHAPES", ((64, 10),))
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    assert "WRONG RESULT" in capsys.readouterr().out


@pytest.fixture(scope="module")
def tumours():
    return demo_binary.load_tumours()


def train_binary(samples, loss, seed=0, **options):
    one = demo_binary.random_network(np.random.default_rng(seed))
    return one, demo.train(one, samples, loss, seed=seed, recipe=demo_binary.RECIPE, **options)


def test_tumours_are_split_by_class(tumours):
    assert tumours.x_train.shape == (455, 30)
    assert tumours.x_test.shape == (114, 30)
    assert set(tumours.y_test) == {0, 1}
    np.testing.assert_allclose(tumours.x_train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(tumours.x_train.std(axis=0), 1)
    # 1 is malignant, the rarer class
    assert np.bincount(np.append(tumours.y_train, tumours.y_test)).tolist() == [357, 212]


BINARY_LOSSES = {"fused": demo_binary.fused_loss(), "textbook": demo_binary.textbook_loss}


@pytest.mark.parametrize("loss", BINARY_LOSSES.values(), ids=BINARY_LOSSES)
@pytest.mark.parametrize("parameter", range(4), ids=demo.Network._fields)
def test_binary_network_gradient_by_finite_differences(loss, parameter):
    rng = np.random.default_rng(1)
    small = demo_binary.random_network(rng, inputs=5, hidden=4)
    x, y = rng.standard_normal((7, 5)), rng.integers(0, 2, 7)
    a1, z2 = small.forward(x)
    gradients = small.backward(x, a1, loss(z2, y)[1])

    def loss_of(values):
        changed = [*small[:parameter], values, *small[parameter + 1 :]]
        return loss(demo.Network(*changed).forward(x)[1], y)[0]

    numerical = finite_difference_grad(loss_of, small[parameter], 1e-5)
    np.testing.assert_allclose(gradients[parameter], numerical, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("backend", ABLE)
def test_short_binary_training_equals_the_textbook(tumours, backend):
    one, fused = train_binary(tumours, demo_binary.fused_loss(backend), epochs=3)
    other, textbook = train_binary(tumours, demo_binary.textbook_loss, epochs=3)
    assert fused.largest_difference(textbook) <= 1e-9
    assert fused.accuracy == textbook.accuracy
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_default_binary_training_reaches_the_accuracy(tumours, seed):
    _, curves = train_binary(tumours, demo_binary.fused_loss(), seed)
    assert curves.accuracy[-1] >= demo_report.NEEDED_BINARY_ACCURACY


def test_binary_demo_as_a_user_runs_it(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "fastxent", "demo", "--binary", "--no-speed"]
    result = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"epoch {demo.EPOCHS:3d}/{demo.EPOCHS}" in result.stdout
    assert "455 to train on and 114 to test" in result.stdout
    assert "ok: test accuracy 9" in result.stdout
    assert "ok: largest difference from the losses of textbook NumPy" in result.stdout
    height, width, _ = picture_of(tmp_path / "tumours.png").shape
    assert width > height > 500


def test_binary_demo_fails_when_the_training_differs(tmp_path, capsys, monkeypatch):
    def wrong(backend):
        def loss(z2, y):
            value, dz2 = demo_binary.textbook_loss(z2, y)
            return value, dz2 * 1.001

        return loss

    monkeypatch.setattr(demo_binary, "fused_loss", wrong)
    code = cli.main(["demo", "--binary", "--no-speed", "--epochs", "5", "--out", str(tmp_path)])
    assert code == 1
    assert "FAILED: largest difference" in capsys.readouterr().out


@pytest.mark.parametrize("backend", ABLE)
def test_binary_results_agree_at_the_size_of_the_table(backend, monkeypatch):
    """10 million logits: some are as large as they get, and there a float32 textbook gives way."""
    monkeypatch.setattr(fx, "backends", lambda: {backend: None})
    timings = demo_speed.measure_binary(demo_speed.BINARY_SHAPES[-1], repeats=1)
    assert [timing.name for timing in timings] == ["textbook", backend]
    assert all(timing.agrees for timing in timings)


def test_binary_times_are_of_results_that_agree(monkeypatch, tmp_path, capsys):
    timings = demo_speed.measure_binary((64, 100), repeats=2)
    assert [timing.name for timing in timings] == ["textbook", *ABLE]
    assert all(timing.agrees for timing in timings)
    monkeypatch.setattr(demo_speed, "BINARY_SHAPES", ((64, 10),))
    assert cli.main(["demo", "--binary", "--epochs", "8", "--out", str(tmp_path)]) in (0, 1)
    assert "targets of 0 and 1" in capsys.readouterr().out
