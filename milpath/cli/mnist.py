"""`milpath mnist`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpath.cli.console import JsonOption, checked, load_network, progress, show_warnings
from milpath.errors import UsageError
from milpath.params import MNIST_PRESETS, MnistBagParams, MnistParams

if TYPE_CHECKING:
    from milpath.nn.mnist import Trial

_OUT = Path("milpath-mnist")
_FIGURES = ("auc", "accuracy", "loss", "instance_auc", "evidence_auc")
_SHOWN = 8
"""Bags of each class in the montages."""


class Preset(StrEnum):
    """Benchmark protocol."""

    paper = "paper"
    keras = "keras"


def mnist(
    preset: Annotated[
        Preset,
        typer.Option(
            help="paper: bags of N(10, 2) digits with or without a 9, 50 to 500 for training. "
            "keras: 1,000 bags of 3, with or without a 1. The options below override it."
        ),
    ] = Preset.paper,
    data: Annotated[
        Path | None,
        typer.Option(help="Path of mnist.npz in Keras' format.", show_default="Keras fetches it"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = _OUT,
    target: Annotated[
        int | None, typer.Option(help="Digit that makes a bag positive.", show_default="preset")
    ] = None,
    train_bags: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Numbers of training bags; one model per number and seed.",
            show_default="preset",
        ),
    ] = None,
    val_bags: Annotated[
        int | None,
        typer.Option(
            help="Number of validation bags, for early stopping; 0 = train all epochs.",
            show_default="preset",
        ),
    ] = None,
    test_bags: Annotated[
        int | None, typer.Option(help="Number of test bags.", show_default="preset")
    ] = None,
    mean_size: Annotated[
        float | None, typer.Option(help="Mean number of digits per bag.", show_default="preset")
    ] = None,
    std_size: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the number of digits per bag; 0 = all bags have the "
            "same size.",
            show_default="preset",
        ),
    ] = None,
    balanced: Annotated[
        bool | None,
        typer.Option(
            "--balanced/--natural",
            help="Alternate positive and negative bags, or keep natural frequencies.",
            show_default="preset",
        ),
    ] = None,
    negative_class: Annotated[
        bool | None,
        typer.Option(
            "--negative-class/--no-negative-class",
            help="Assume that all digits of a negative bag are negative.",
            show_default="preset",
        ),
    ] = None,
    warp: Annotated[
        bool | None,
        typer.Option(
            "--warp/--no-warp",
            help="Randomly warp each training digit.",
            show_default="warp",
        ),
    ] = None,
    gated: Annotated[
        bool | None,
        typer.Option(
            "--gated/--plain",
            help="Gated attention, or tanh attention alone.",
            show_default="gated",
        ),
    ] = None,
    members: Annotated[
        int | None, typer.Option(help="Models per ensemble; 1 = no ensemble.", show_default="1")
    ] = None,
    class_weight: Annotated[
        str | None,
        typer.Option(
            help="Class weights in the loss: balanced, or none.",
            show_default="preset",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Maximum number of epochs.", show_default="from --train-bags"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Number of seeds per number of training bags.",
            show_default="preset",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="First random seed.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run the MNIST-bags benchmark: does a bag contain the target digit?

    Training, validation and test bags are drawn separately, test bags from MNIST's test images
    only. OUT receives results.jsonl and the parameters, a plot of AUC against the number of
    training bags, and montages of test bags with the attention under each digit. The instance AUC
    measures how well attention finds the target within positive bags; the evidence AUC, how well
    each digit's contribution to the class does.
    """
    params = _change(
        MNIST_PRESETS[preset.value],
        bags={"target": target, "mean_size": mean_size, "std_size": std_size, "balanced": balanced},
        train={"members": members, "class_weight": class_weight},
        gated=gated,
        train_bags=None if train_bags is None else _numbers(train_bags),
        val_bags=val_bags,
        test_bags=test_bags,
        seeds=seeds,
        seed=seed,
        epochs=epochs,
        negative_class=negative_class,
        warp=warp,
    )
    from milpath.store import publish_text, require_writable

    show_warnings()
    if data is not None and not data.is_file():
        raise UsageError(f"{data}: no such file; check the path of --data")
    require_writable(out)
    load_network()
    from milpath.nn.mnist import load_mnist

    halves = load_mnist(data)
    publish_text(out / "params.json", params.model_dump_json(indent=2) + "\n")
    records: list[dict[str, Any]] = []
    for trial in _run(halves, params):
        records.append(_record(trial))
        if as_json:
            print(json.dumps(records[-1]), flush=True)
        lines = "\n".join(map(json.dumps, records))
        publish_text(out / "results.jsonl", f"{lines}\n")
    _draw(out, records, trial, params)
    if not as_json:
        _print_table(records)
        print(f"pictures: {out}")


def _change(
    preset: MnistParams, bags: dict[str, Any], train: dict[str, Any], gated: bool | None, **own: Any
) -> MnistParams:
    """Override a preset with the given options."""

    def given(values: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    recipe = preset.train.model_dump() | given(train)
    if gated is not None:
        recipe["head"] = recipe["head"] | {"gated": gated}
    return checked(
        MnistParams,
        **{
            **preset.model_dump(),
            **given(own),
            "bags": checked(MnistBagParams, **(preset.bags.model_dump() | given(bags))),
            "train": checked(type(preset.train), **recipe),
        },
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"--train-bags {text}: expected distinct numbers, each at least 2, such as 50,100,200"
        )
    return numbers


def _run(halves: Any, params: MnistParams) -> Iterable[Trial]:
    from milpath.nn.mnist import run_trial

    runs = [
        (count, seed)
        for count in params.train_bags
        for seed in range(params.seed, params.seed + params.seeds)
    ]
    steps = [params.train.members * params.epochs_for(count) for count, _ in runs]
    done = 0
    with progress("mnist", sum(steps)) as advance:
        for place, (count, seed) in enumerate(runs, start=1):

            def tell(losses: dict[str, float], count: int = count, seed: int = seed) -> None:
                nonlocal done
                done += 1
                advance(f"{count} bags, seed {seed}, loss {losses['loss']:.3f}")

            trial = run_trial(halves, params, count, seed, tell)
            left, done = sum(steps[:place]) - done, sum(steps[:place])
            advance(
                f"{count} bags, seed {seed}, AUC {trial.auc:.3f}", left
            )  # training may stop early
            yield trial


def _record(trial: Trial) -> dict[str, Any]:
    figures = {name: getattr(trial, name) for name in _FIGURES}
    return {
        "train_bags": trial.train_bags,
        "seed": trial.seed,
        **{name: None if value is None else round(value, 5) for name, value in figures.items()},
        "epochs": trial.epochs,
        "seconds": round(trial.seconds, 2),
    }


def _print_table(records: Sequence[dict[str, Any]]) -> None:
    names = [name.replace("_", " ").replace("auc", "AUC") for name in _FIGURES]
    print("bags  " + "".join(f"{name:<14}" for name in names) + "seconds")
    for count in dict.fromkeys(one["train_bags"] for one in records):
        some = [one for one in records if one["train_bags"] == count]
        cells = [_cell([one[name] for one in some]) for name in _FIGURES]
        seconds = statistics.mean(one["seconds"] for one in some)
        print(f"{count:<6}" + "".join(f"{cell:<14}" for cell in cells) + f"{seconds:.1f}")


def _cell(values: Sequence[float | None]) -> str:
    """Mean and standard deviation over the seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) == 1:
        return f"{known[0]:.4f}"
    return f"{statistics.mean(known):.3f} ± {statistics.stdev(known):.3f}"


def _draw(out: Path, records: Sequence[dict[str, Any]], last: Trial, params: MnistParams) -> None:
    from milpath.figures.curves import write_learning_curve
    from milpath.figures.montage import MontageBag, write_montage
    from milpath.formats.scores import format_probability

    points: dict[int, list[float]] = {}
    for one in records:
        points.setdefault(one["train_bags"], []).append(one["auc"])
    title = f"MNIST bags: does the bag contain a {params.bags.target}?"
    write_learning_curve(out / "auc.png", points, "AUC on test bags", title)
    for label, name in enumerate(("negative", "positive")):
        some = [i for i, bag in enumerate(last.test) if bag.label == label][:_SHOWN]
        rows = [
            MontageBag(
                last.test[i].images,
                last.bag_scores[i].attention,
                last.test[i].digits == params.bags.target,
                f"probability of a {params.bags.target}: "
                + format_probability(float(last.bag_scores[i].probs[1]), 3),
            )
            for i in some
        ]
        explain = f"trained on {last.train_bags} bags; target framed, attention below each digit"
        write_montage(out / f"{name}.png", rows, f"{title} {name.capitalize()} bags\n{explain}")
