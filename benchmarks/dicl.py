"""Do dynamics models in context do what DICL claims, at tiny scale? dicl.py [MODEL] [--write]

Four claims of arXiv 2410.11711, each over seeds, paired, with 95 % intervals of Student:

    context      the error of one-step forecasts falls with the values of the context
    components   on linearly mixed sources, PCA with half of the components takes half of the passes
                 and is not worse than one series per feature
    calibration  quantiles of the model's own samples are uniform; on series with changing noise it
                 is nearer to uniform than the context's Gaussian, and a temperature lowers its ECE
    control      on Pendulum, DICL-SAC is not below SAC in the first 30 % of the steps, and 25 % of
                 forecast rows are not above 5 %

Held-out series come from seeds that training does not use. Each seed of each part is kept as it is
done, and a run that was cut off is gone on with. `--parts context,components,calibration` leaves
out the control, which takes hours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from figures import HERE

import posttrain as pt
from posttrain.dynamics.baselines import gaussian_forecast
from posttrain.dynamics.calibration import (
    fit_temperature,
    ks_critical,
    ks_uniform,
    reliability,
    sample_quantiles,
)
from posttrain.dynamics.forecaster import Forecaster
from posttrain.dynamics.trajectory import Trajectory, forecast_states
from posttrain.evaluation.statistics import paired_t, t_interval
from posttrain.tasks.digit_series import draw_series

WORK = HERE / ".work" / "dicl.json"
RESULTS = HERE / "results" / "dicl.json"
HELD_OUT = 1_000_000  # added to seeds: training draws from seed 0
BURN_IN = 32
SHARES = (0.05, 0.25)
Figures = dict[str, Any]


def series_of(kind: str, count: int, length: int, seed: int) -> list[np.ndarray]:
    """Held-out series of a kind."""
    draw = np.random.default_rng([HELD_OUT + seed, length])
    return [draw_series(kind, length, draw) for _ in range(count)]


def context(forecaster: Forecaster, seed: int, options: argparse.Namespace) -> Figures:
    """Error over variance of one-step forecasts, by the values of the context."""
    rows = []
    for kind in ("autoregressive", "sinusoids", "mixture"):
        some = series_of(kind, options.series, options.length, seed)
        for series, law in zip(some, forecaster.forecast(some), strict=True):
            rows.append((law.mean[:-1] - series[1:]) ** 2 / max(series.var(), 1e-12))
    errors = np.array(rows).mean(0)
    bounds = [2, 4, 8, 16, 32, 64, options.length]
    # Row t of the errors is that of a context of t + 1 values.
    return {
        str(low): float(errors[low - 1 : high - 1].mean())
        for low, high in itertools.pairwise(bounds)
    }


def components(forecaster: Forecaster, seed: int, options: argparse.Namespace) -> Figures:
    """Six features mixed from three sources: error, passes and seconds of vICL and of PCA."""
    draw = np.random.default_rng([HELD_OUT + seed, 6])
    figures: dict[str, list[float]] = {}
    for _ in range(max(2, options.series // 4)):
        kinds = ("autoregressive", "sinusoids", "clipped_waves")
        sources = np.stack([draw_series(kind, options.length, draw) for kind in kinds], 1)
        sources = (sources - sources.mean(0)) / np.maximum(sources.std(0), 1e-9)
        features = sources @ draw.standard_normal((3, 6))
        features += 0.02 * features.std(0) * draw.standard_normal(features.shape)
        part, scale = Trajectory(features), features.var(0)
        for name, learner, count in (("vicl", "vicl", None), ("pca", "dicl_s", 3)):
            before, started = forecaster.cost.passes, time.perf_counter()
            ahead = forecast_states(forecaster, part, learner, num_components=count).point()  # type: ignore[arg-type]
            errors = ((ahead[:-1] - features[1:]) ** 2 / scale)[BURN_IN:]
            for key, value in (
                ("error", float(errors.mean())),
                ("passes", forecaster.cost.passes - before),
                ("seconds", time.perf_counter() - started),
            ):
                figures.setdefault(f"{name}/{key}", []).append(value)
    return {key: float(np.mean(values)) for key, values in figures.items()}


def calibration(forecaster: Forecaster, seed: int, options: argparse.Namespace) -> Figures:
    """KS of the model's own samples; KS and ECE on series with changing noise."""
    draw = np.random.default_rng([HELD_OUT + seed, 73])
    own: list[np.ndarray] = []
    starts = series_of("any", max(2, options.series // 4), 48, seed)
    scales = forecaster.scales(starts)
    for start, scale, paths in zip(
        starts, scales, forecaster.continued(starts, 16, how="sample", num_paths=4, seed=seed)
    ):
        for path in paths:
            whole = np.concatenate([start, path])
            law = forecaster.forecast([whole], scales=[scale])[0]
            own.append(law.cdf(np.append(whole[1:], 0.0))[len(start) - 1 : -1])
    series = series_of("heteroscedastic", options.series, options.length, seed)
    laws = forecaster.forecast(series)
    counted = [law[BURN_IN:-1] for law in laws]
    truth = [values[BURN_IN + 1 :] for values in series]
    model = np.concatenate([law.cdf(x) for law, x in zip(counted, truth, strict=True)])
    gaussian = []
    for values in series:
        normal = gaussian_forecast(Trajectory(values))
        samples = normal.samples(100, draw)[:, BURN_IN:-1]
        gaussian.append(sample_quantiles(samples, values[BURN_IN + 1 :, None], draw))
    half = len(counted) // 2
    temperature = fit_temperature(counted[:half], truth[:half])

    def ece(scaled: list[Any]) -> float:
        return reliability(
            np.concatenate([law.cdf(x) for law, x in zip(scaled, truth[half:], strict=True)])
        ).ece

    u = np.concatenate(own)
    return {
        "ks_own": ks_uniform(u),
        "ks_critical": ks_critical(len(u)),
        "ks_model": ks_uniform(model),
        "ks_gaussian": ks_uniform(np.concatenate(gaussian)),
        "temperature": temperature,
        "ece_before": ece(counted[half:]),
        "ece_after": ece([law.tempered(temperature) for law in counted[half:]]),
    }


def control(forecaster: Forecaster, seed: int, options: argparse.Namespace) -> Figures:
    """Mean return of SAC and DICL-SAC on Pendulum: in the first 30 % of the steps, and in all."""
    figures: Figures = {}
    for share in (0.0, *SHARES):
        settings = pt.Control(
            num_steps=options.steps,
            predicted_share=share,
            window=options.window,
            burn_in=options.window // 4,
            start_steps=min(1000, options.steps // 6),
            predict_after=min(2000, options.steps // 4),
            predict_every=options.predict_every,
            seed=seed,
        )
        folder = WORK.parent / "dicl_control" / f"{options.steps}-{seed}-{share:g}"
        result = pt.dicl_sac(
            "Pendulum-v1", settings, model=forecaster.model if share else None, output=folder,
            resume=True,
        )  # fmt: skip
        figures |= {
            f"{share:g}/early": result.mean_return(0, 0.3),
            f"{share:g}/whole": result.mean_return(),
            f"{share:g}/forecast_error": float(np.nanmean([*result.forecast_error, np.nan]))
            if share
            else None,
        }
        print(f"  seed {seed}, share {share:g}: {figures[f'{share:g}/early']:.0f}", flush=True)
    return figures


PARTS: dict[str, Callable[[Forecaster, int, argparse.Namespace], Figures]] = {
    "context": context,
    "components": components,
    "calibration": calibration,
    "control": control,
}


def claims(part: str, rows: list[Figures]) -> list[Figures]:
    """The claims of a part over its seeds: estimate, interval, and whether it is reproduced."""

    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    found = []

    def paired(text: str, first: str, second: str, *, most: float = 0.0, strict: bool) -> None:
        d = paired_t(column(first), column(second))
        holds = d.high < most if strict else d.estimate <= most
        excluded = d.low > most
        verdict = "reproduced" if holds else ("refuted" if excluded else "undecided")
        found.append(
            {
                "claim": text,
                "estimate": d.estimate,
                "interval": [d.low, d.high],
                "p": d.p_value,
                "verdict": verdict,
            }
        )

    if part == "context":
        last = list(rows[0])[-1]
        paired(f"error at {last} values minus at 4", "4", last, strict=True)
    elif part == "components":
        ratio = float(np.mean(column("pca/passes")) / np.mean(column("vicl/passes")))
        margin = 0.05 * float(np.mean(column("vicl/error")))
        text = f"PCA's error minus vICL's, at {ratio:.2f} of the passes, below a margin of 5 %"
        paired(text, "vicl/error", "pca/error", most=margin, strict=True)
    elif part == "calibration":
        own = t_interval(column("ks_own"))
        found.append(
            {
                "claim": f"KS of own samples, below {np.mean(column('ks_critical')):.3f}",
                "estimate": own.estimate,
                "interval": [own.low, own.high],
                "verdict": "reproduced"
                if own.estimate < np.mean(column("ks_critical"))
                else "refuted",
            }
        )
        paired("KS minus the Gaussian's", "ks_gaussian", "ks_model", strict=True)
        paired("ECE after a temperature minus before", "ece_before", "ece_after", strict=True)
    else:
        # Returns: the second minus the first is to be at most 0.
        paired("SAC minus DICL-SAC 5 %, first 30 %", "0.05/early", "0/early", strict=False)
        paired("DICL-SAC 25 % minus 5 %, first 30 %", "0.05/early", "0.25/early", strict=False)
    return found


def main() -> None:
    """Measure what is missing, and print all claims."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="embedded-dynamics")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--series", type=int, default=40, help="held-out, per kind and seed")
    parser.add_argument("--length", type=int, default=128, help="values of a series")
    parser.add_argument("--steps", type=int, default=10_000, help="of Pendulum")
    parser.add_argument("--window", type=int, default=120, help="states of a forecast window")
    parser.add_argument("--predict-every", type=int, default=50, help="steps per window")
    parser.add_argument("--work", type=Path, default=WORK, help="file of what is done")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    about = {name: getattr(options, name) for name in ("model", "series", "length")}
    about["control"] = [options.steps, options.window, options.predict_every]
    done: dict[str, Any] = json.loads(options.work.read_text()) if options.work.is_file() else {}
    if done.get("about", about) != about:
        raise SystemExit(f"{options.work} is of other settings ({done['about']}); remove it first")
    done = {"about": about, "rows": done.get("rows", {})}
    forecaster = Forecaster(pt.load(options.model))
    found: dict[str, list[Figures]] = {}
    for part in options.parts.split(","):
        rows = []
        for seed in options.seeds.split(","):
            key = f"{part}/{seed}"
            if key not in done["rows"]:
                done["rows"][key] = PARTS[part](forecaster, int(seed), options)
                options.work.parent.mkdir(parents=True, exist_ok=True)
                options.work.write_text(json.dumps(done, indent=1))
            rows.append(done["rows"][key])
        found[part] = claims(part, rows)
        for name in rows[0]:
            values = [row[name] for row in rows if row[name] is not None]
            if values:
                print(f"{part:12} {name:20} {np.mean(values):10.4f}")
        for claim in found[part]:
            low, high = claim["interval"]
            print(
                f"  {claim['verdict']:10} {claim['claim']}: {claim['estimate']:+.4f} "
                f"[{low:+.4f}, {high:+.4f}]",
                flush=True,
            )
    if options.write:
        RESULTS.write_text(json.dumps({**done, "claims": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
