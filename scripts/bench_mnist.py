"""Compare milpath with other code on the same MNIST bags.

python scripts/bench_mnist.py --data mnist.npz [--train-bags 50,100,200,500] [--seeds 5]
    [--reference FOLDER] [--keras-example FILE.py] [--speed]

--reference: a checkout of the paper authors' PyTorch code (its model.py), for which PyTorch must
    be installed; trained as its main.py does: Adam 5e-4, weight decay 1e-4, one bag per step,
    20 epochs.
--keras-example: attention_mil_classification.py of Keras' own examples; its functions are run on
    the bags of `milpath mnist --preset keras`, and so is milpath.
--speed: 200 bags, time until AUC .96; one model per seed, milpath with the parameters `SHORT`.
--first-seed: parameters were chosen on seeds 0 to 7; give 100 or more for held-out seeds.

Prints one JSON line per model, then means and ratios. Seconds are of training alone. Models are
trained alternately in one run, so compare ratios, not seconds of different runs.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from numpy.typing import NDArray
from repeated_cv import print_line

from milpath.metrics import accuracy, auc, instance_auc, log_loss
from milpath.nn import import_keras
from milpath.nn.mnist import Digits, MnistBag, draw_sets, load_mnist, run_trial
from milpath.params import MNIST_PRESETS, MnistParams

REFERENCE_EPOCHS = 20
SPEED_BAGS, SPEED_AUC = 200, 0.96
SHORT = {"epochs": 7, "bag_batch": 8, "learning_rate": 5e-3, "patches_per_bag": 12}
"""milpath's parameters to reach AUC .96 only: few epochs, a learning rate too high for the best
AUC, and large bags sampled at random, so that fewer digits are padding."""
SHORT_KERAS = {"epochs": 1, "bag_batch": 8, "learning_rate": 3e-3, "warp": False}
"""milpath's parameters to reach the example's accuracy only: each digit is seen once, unwarped."""
EXAMPLE_VAL_BAGS = 300
"""For early stopping of the example; milpath trains all epochs."""

Mnist = tuple[Digits, Digits]
FIGURES = ("auc", "accuracy", "loss", "instance_auc", "seconds")


def milpath_trial(mnist: Mnist, params: MnistParams, count: int, seed: int) -> dict[str, Any]:
    """Train milpath; return its line."""
    trial = run_trial(mnist, params, count, seed)
    figures = {name: getattr(trial, name) for name in FIGURES}
    return {"who": "milpath", "train_bags": count, "seed": seed, **figures, "epochs": trial.epochs}


def fast_preset(params: MnistParams, change: dict[str, Any], epochs: int | None) -> MnistParams:
    """Return the protocol with parameters that train faster."""
    own = {name: value for name, value in change.items() if name in MnistParams.model_fields}
    recipe = {name: value for name, value in change.items() if name not in own}
    train = params.train.model_copy(update=recipe)
    return params.model_copy(update={**own, "epochs": epochs or own["epochs"], "train": train})


# -- the paper authors' code ---------------------------------------------------------------------


def load_module(path: Path) -> ModuleType:
    """Import a module from a file outside this project."""
    spec = importlib.util.spec_from_file_location("reference_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference(
    folder: Path, mnist: Mnist, params: MnistParams, count: int, seed: int
) -> dict[str, Any]:
    """Train the authors' gated model on the same bags, and time it until its AUC is `SPEED_AUC`."""
    import torch

    train, _, test = draw_sets(mnist, params, count, seed)
    target = params.bags.target
    torch.manual_seed(seed)
    model = load_module(folder / "model.py").GatedAttention()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, betas=(0.9, 0.999), weight_decay=1e-4)

    def tensor(bag: MnistBag) -> Any:
        pixels = (bag.images[..., 0].astype(np.float32) / 255 - 0.1307) / 0.3081
        return torch.from_numpy(pixels)[None, :, None]

    def evaluate() -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        model.eval()
        with torch.no_grad():
            answers = [model(tensor(bag)) for bag in test]
        probs = np.array([float(answer[0]) for answer in answers])
        attention = [answer[2].numpy().ravel().astype(np.float64) for answer in answers]
        return np.stack([1 - probs, probs], axis=1), attention

    labels = np.array([bag.label for bag in test])
    bags = [(tensor(bag), torch.tensor([bag.label])) for bag in train]
    seconds, reached = 0.0, None
    for epoch in range(REFERENCE_EPOCHS):
        start = time.perf_counter()
        model.train()
        for place in np.random.default_rng([seed, epoch]).permutation(len(bags)):
            optimizer.zero_grad()
            loss, _ = model.calculate_objective(*bags[place])
            loss.backward()
            optimizer.step()
        seconds += time.perf_counter() - start
        if reached is None and (auc(labels, evaluate()[0]) or 0) >= SPEED_AUC:
            reached = seconds
    probs, attention = evaluate()
    positive = [i for i, bag in enumerate(test) if bag.label == 1]
    return {
        "who": "reference",
        "train_bags": count,
        "seed": seed,
        "auc": auc(labels, probs),
        "accuracy": accuracy(labels, probs),
        "loss": log_loss(labels, probs),
        "instance_auc": instance_auc(
            [test[i].digits == target for i in positive], [attention[i] for i in positive]
        ),
        "seconds": seconds,
        "epochs": REFERENCE_EPOCHS,
        "seconds_to_auc": reached,
    }


# -- Keras' example ------------------------------------------------------------------------------


def load_example(path: Path) -> dict[str, Any]:
    """Load the example's imports, functions, classes and constants, without running the rest."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    kept = [node for node in tree.body if _defines(node)]
    exec(compile(ast.Module(kept, []), str(path), "exec"), names)
    return names


def _defines(node: ast.stmt) -> bool:
    """Whether a statement only defines a name."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        root = (module or "").split(".")[0]
        return importlib.util.find_spec(root) is not None  # tqdm may not be installed
    if isinstance(node, ast.Assign):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.FunctionDef | ast.ClassDef)


def keras_example(path: Path, mnist: Mnist, params: MnistParams, seed: int) -> dict[str, Any]:
    """Train the example's model with its own function; evaluate it on the same test bags."""
    import keras

    count = params.train_bags[0]
    sets = draw_sets(mnist, params, count, seed)
    keras.utils.set_random_seed(seed)
    names = load_example(path)

    def arrays(bags: Sequence[MnistBag]) -> tuple[list[NDArray[np.float64]], NDArray[np.int64]]:
        images = np.stack([bag.images[..., 0] for bag in bags]) / 255.0
        return list(images.swapaxes(0, 1)), np.array([[bag.label] for bag in bags])

    (train, labels), (val, val_labels), (test, truth) = map(arrays, sets)
    start = time.perf_counter()
    model = names["create_model"](train[0][0].shape)
    names["train"](train, labels, val, val_labels, model)
    seconds = time.perf_counter() - start
    probs = np.asarray(model.predict(test, verbose=0), np.float64)
    return {
        "who": "keras example",
        "train_bags": count,
        "seed": seed,
        "auc": auc(truth.ravel(), probs),
        "accuracy": accuracy(truth.ravel(), probs),
        "loss": log_loss(truth.ravel(), probs),
        "seconds": seconds,
    }


# -- the benchmarks ------------------------------------------------------------------------------


def run(line: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    print_line(line)
    lines.append(line)


def summarize(lines: Sequence[dict[str, Any]]) -> None:
    """Print means by system and number of bags."""
    for who, count in dict.fromkeys((line["who"], line["train_bags"]) for line in lines):
        some = [line for line in lines if (line["who"], line["train_bags"]) == (who, count)]
        summary: dict[str, Any] = {"mean of": who, "train_bags": count, "seeds": len(some)}
        for name in FIGURES:
            values = [line[name] for line in some if line.get(name) is not None]
            if values:
                spread = {
                    "mean": statistics.mean(values),
                    "least": min(values),
                    "most": max(values),
                }
                summary[name] = spread
        print_line(summary)


def ratio(
    name: str,
    lines: Sequence[dict[str, Any]],
    systems: tuple[str, str],
    key: str,
    reached: Callable[[dict[str, Any], dict[str, Any]], bool],
) -> None:
    """Print how many times faster the second system is, per seed on the same bags, and the median.

    Only seeds where it `reached` the required figure; the others are counted as missed.
    """
    slow, fast = ({line["seed"]: line for line in lines if line["who"] == who} for who in systems)
    seeds = [seed for seed in fast if slow[seed].get(key) and reached(slow[seed], fast[seed])]
    pairs = [slow[seed][key] / fast[seed]["seconds"] for seed in seeds]
    print_line(
        {
            "ratio": name,
            "median": statistics.median(pairs) if pairs else None,
            "each": [round(pair, 2) for pair in pairs],
            "missed": sum(not reached(slow[seed], fast[seed]) for seed in fast),
            "never reached by the other": sum(not slow[seed].get(key) for seed in fast),
        }
    )


def compare_with_example(mnist: Mnist, options: argparse.Namespace) -> None:
    """Keras' protocol: the example, milpath, and milpath's fast preset."""
    change = {"test_bags": options.test_bags, "epochs": options.epochs}
    full = MNIST_PRESETS["keras"].model_copy(update=change)
    few = fast_preset(full, SHORT_KERAS, options.epochs)
    stopping = full.model_copy(update={"val_bags": EXAMPLE_VAL_BAGS})
    count = full.train_bags[0]
    lines: list[dict[str, Any]] = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        run(keras_example(options.keras_example, mnist, stopping, seed), lines)
        run(milpath_trial(mnist, full, count, seed), lines)
        run({**milpath_trial(mnist, few, count, seed), "who": "milpath, fast preset"}, lines)
    summarize(lines)
    ratio(
        "keras example / fast preset, where its accuracy is reached",
        lines,
        ("keras example", "milpath, fast preset"),
        "seconds",
        lambda example, fast: fast["accuracy"] >= example["accuracy"],
    )


def compare_with_reference(mnist: Mnist, options: argparse.Namespace) -> None:
    """The paper's protocol: milpath, and the authors' code if given."""
    change = {"test_bags": options.test_bags, "epochs": options.epochs}
    params = MNIST_PRESETS["paper"].model_copy(update=change)
    if options.speed:
        params = fast_preset(params, SHORT, options.epochs)
    counts = [SPEED_BAGS] if options.speed else map(int, options.train_bags.split(","))
    lines: list[dict[str, Any]] = []
    for count in counts:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            run(milpath_trial(mnist, params, count, seed), lines)
            if options.reference:
                run(reference(options.reference, mnist, params, count, seed), lines)
    summarize(lines)
    if options.speed and options.reference:

        def reached(reference: dict[str, Any], milpath: dict[str, Any]) -> bool:
            return bool(milpath["auc"] >= SPEED_AUC)

        both = ("reference", "milpath")
        ratio(f"reference until AUC {SPEED_AUC} / milpath", lines, both, "seconds_to_auc", reached)
        ratio("reference, all its epochs / milpath", lines, both, "seconds", reached)


def main() -> None:
    """Print one JSON line per model, then means and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="mnist.npz; by default Keras downloads it")
    parser.add_argument("--train-bags", default="50,100,200,500")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--test-bags", type=int, default=1000)
    parser.add_argument("--epochs", type=int, help="fewer, for a trial run")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--keras-example", type=Path)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    import_keras()
    mnist = load_mnist(options.data)
    if options.keras_example:
        compare_with_example(mnist, options)
    else:
        compare_with_reference(mnist, options)


if __name__ == "__main__":
    main()
