"""The figures of docs/concepts.md, drawn with the functions of cdt.

    python docs/figures/make.py [FOLDER]

writes them to docs/images or to FOLDER. The figures of a trained run use digits_run.json, next to
this file. These commands make it again:

    python -m cdt.main --config=configs/digits.py --workdir=runs/pacing --config.log.every="1 steps"
    python docs/figures/make.py --record=runs/pacing
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cdt.curriculum import (
    PacingState,
    curriculum,
    edge_table,
    fixed,
    opening_order,
    pacing,
    snr_edges,
    uniform_edges,
)
from cdt.diffusion import (
    ddpm,
    edm,
    flow,
    linear_betas,
    linear_path,
    velocity_prediction,
    x0_error_weight,
)
from cdt.monitoring import plots
from cdt.monitoring.writers import read_history
from cdt.timesteps import (
    Feedback,
    independent,
    info_noise,
    log_s_bins,
    logit_normal,
    second_moment,
    uniform,
)

HERE = Path(__file__).parent
RUN = HERE / "digits_run.json"
RECORDED = 300  # steps, past the last stage
# Settings of that run, from configs/digits.py.
PATIENCE, CLUSTERS, OPEN_ALL_AT, DIMENSIONS = 5, 20, 250, 64
# Dark is least noise, as in `cdt.monitoring.plots`.
CLUSTER_COLOURS = LinearSegmentedColormap.from_list(
    "clusters", ["#1b1040", "#5b2a86", "#b5367a", "#ee6a5d", "#fdb366"]
)
LINE, SECOND = "#5b2a86", "#b85c00"


def levels(path: Path) -> None:
    """Plot log SNR over u in the three families, with the edges of ten clusters of both kinds."""
    number = 10
    families = {
        "DDPM, linear betas": ddpm(linear_betas(1000)),
        "EDM": edm(),
        "flow matching, linear path": flow(linear_path()),
    }
    figure, axes = _figure(3, "log SNR", one_y_axis=True)
    u = np.linspace(0.0005, 0.9995, 2000)
    colours = CLUSTER_COLOURS(np.linspace(0, 1, number))
    edges = uniform_edges(number)
    for axis, (name, process) in zip(axes, families.items(), strict=True):
        log_snr = process.log_snr(u)
        for low, high, colour in zip(edges, edges[1:], colours, strict=False):
            inside = (u >= low) & (u <= high)
            axis.plot(u[inside], log_snr[inside], color=colour, linewidth=2.4)
        for edge in edges[1:-1]:
            axis.axvline(edge, color="0.88", linewidth=0.8, zorder=0)
        inner = snr_edges(process.log_snr, number, process.num_levels)[1:-1]
        axis.plot(
            inner, np.full(len(inner), -19.0), "|", color=SECOND, markersize=9, markeredgewidth=1.6
        )
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_ylim(-20, 20)
        _u_axis(axis)
    axes[0].plot([], [], color="0.8", linewidth=0.8, label='cluster edges, spacing = "uniform"')
    axes[0].plot([], [], "|", color=SECOND, markersize=9, markeredgewidth=1.6,
                 label='cluster edges, spacing = "snr"')  # fmt: skip
    _legend(figure, axes)
    _save(path, figure)


def stages(path: Path) -> None:
    """Plot which clusters are open at each stage, in three orders."""
    number = 10
    figure, axes = _figure(3, "stage", one_y_axis=True)
    edges = uniform_edges(number)
    colours = CLUSTER_COLOURS(np.linspace(0, 1, number))
    for axis, order in zip(axes, ("easy_to_hard", "hard_to_easy", "random"), strict=True):
        opens = opening_order(order, number)
        for stage in range(1, number + 1):
            for cluster in opens[:stage]:
                axis.barh(
                    stage, edges[cluster + 1] - edges[cluster], left=edges[cluster], height=0.8,
                    color=colours[cluster], edgecolor="white", linewidth=0.8,
                )  # fmt: skip
        axis.set_title(f'order = "{order}"', loc="left", fontsize=10)
        axis.set_ylim(number + 0.6, 0.4)
        axis.set_yticks([1, *range(2, number + 1, 2)])
        _u_axis(axis)
    _save(path, figure)


def paced(losses: np.ndarray) -> PacingState:
    """Return the states of the run's pacing before each step and after the last, [k + 1] each.

    Args:
      losses: float[k], the loss of each step.
    """
    rule = pacing.patience(PATIENCE, CLUSTERS, open_all_at=OPEN_ALL_AT)

    def advance(state, loss_and_step):
        after = rule.update(state, *loss_and_step)
        return after, after

    steps = jnp.arange(len(losses), dtype=jnp.int32)
    start = rule.init()
    _, after = jax.lax.scan(advance, start, (jnp.asarray(losses, jnp.float32), steps))
    return jax.tree.map(lambda a, b: np.concatenate([[a], b]), start, after)


def patience(path: Path) -> None:
    """Plot the loss of a run and the steps without improvement that patience counts."""
    losses = np.array(read_run()["loss"])
    states = paced(losses)
    step = np.arange(1, len(losses) + 1)
    stage = states.stage[:-1]  # the stage of each step
    figure = Figure(figsize=(8.4, 4.4), dpi=140, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    colours = CLUSTER_COLOURS(np.linspace(0, 1, CLUSTERS))[::-1]  # of the cluster that opened last
    for number in range(1, CLUSTERS + 1):
        now = stage == number
        if not now.any():
            continue
        above.plot(step[now], losses[now], color=colours[number - 1], linewidth=1.2)
        # The best loss of the stage so far; the rule forgets it when a cluster opens.
        if number < CLUSTERS:
            best = np.minimum.accumulate(losses[now])
            above.plot(step[now], best, color="0.35", linewidth=1.0, linestyle=(0, (2, 1)))
        if number > 1:
            for axis in (above, below):
                axis.axvline(step[now][0] - 0.5, color="0.88", linewidth=0.8, zorder=0)
        middle = step[now].mean()
        if number in (1, 2, 3, 5, 10, 15, CLUSTERS):
            above.annotate(
                str(number), (middle, 1.0), xycoords=("data", "axes fraction"), ha="center",
                va="bottom", fontsize=9, color="0.25",
            )  # fmt: skip
    above.plot([], [], color=LINE, linewidth=1.2, label="loss of the step")
    above.plot([], [], color="0.35", linewidth=1.0, linestyle=(0, (2, 1)),
               label="best of the stage")  # fmt: skip
    above.legend(frameon=False, fontsize=10, loc="upper right", ncols=2)
    above.set_yscale("log")
    above.set_yticks([0.4, 0.6, 1.0, 1.6], ["0.4", "0.6", "1.0", "1.6"])
    above.minorticks_off()
    above.set_ylabel("training loss")
    above.annotate(
        "stage", (-0.01, 1.0), xycoords="axes fraction", ha="right", va="bottom", fontsize=9,
        color="0.25",
    )  # fmt: skip
    # The step that ends a stage is counted too; after it the count starts at 0.
    waits = (losses >= states.best[:-1]) & (stage < CLUSTERS)
    below.step(step, np.where(waits, states.bad_steps[:-1] + 1, 0), where="mid", color=LINE)
    below.axhline(PATIENCE, color=SECOND, linewidth=1.0)
    below.annotate(
        f"patience {PATIENCE}", (1.0, PATIENCE), xycoords=("axes fraction", "data"), ha="right",
        va="bottom", fontsize=9, color=SECOND,
    )  # fmt: skip
    below.set_ylim(0, PATIENCE + 2.5)
    below.set_yticks([0, PATIENCE])
    below.set_ylabel("steps without\nimprovement")
    below.set_xlabel("training step")
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(0, len(losses))
    _save(path, figure)


def densities(path: Path) -> None:
    """Plot histograms of the levels that the curriculum draws, for four densities and stages."""
    number, draws = 10, 1_000_000
    edges = edge_table(uniform_edges(number), None)
    known = {
        "uniform": (uniform(), "0.45"),
        "logit_normal": (logit_normal(), LINE),
        "second_moment": (second_moment(100), SECOND),
        "info_noise": (_info_noise(), "#2a8c8c"),
    }
    figure, axes = _figure(3, "density of u", one_y_axis=True)
    for name, (density, colour) in known.items():
        learned = taught(density)
        sampler = curriculum(density, edges, fixed(1, number))
        for axis, stage in zip(axes, (3, 6, number), strict=True):
            state = sampler.init()
            now = state.pacing._replace(stage=jnp.int32(stage))
            state = state._replace(density=learned, pacing=now)
            u = sampler.sample(state, jax.random.key(0), draws).u
            heights, bins = np.histogram(np.asarray(u), bins=100, range=(0, 1), density=True)
            heights = np.where(heights > 0, heights, np.nan)  # closed clusters
            axis.stairs(heights, bins, color=colour, linewidth=1.5, baseline=None, label=name)
            axis.set_title(f"stage {stage} of {number}", loc="left", fontsize=10)
            _u_axis(axis)
    axes[0].set_ylim(0, 7)
    _legend(figure, axes)
    _save(path, figure)


def taught(density):
    """Return the state of a density after updates with the final losses of the run.

    The run uses flow matching, where eps = x + (1 - u) velocity.
    """
    known = np.array(read_run()["validation_loss"])
    middles = (np.arange(len(known)) + 0.5) / len(known)
    state, update = density.init(), jax.jit(density.update)
    for round_ in range(60):
        draw = independent(uniform()).sample((), jax.random.key(round_), 4096)
        loss = jnp.interp(draw.u, middles, known)
        state = update(state, draw, Feedback(loss, DIMENSIONS * (1 - draw.u) ** 2 * loss))
    return state


def _info_noise():
    process = flow(linear_path())
    knots, log_s = log_s_bins(process.log_snr, 100)
    weight = x0_error_weight(process, velocity_prediction(process))
    level = process.level(jnp.asarray((knots[1:] + knots[:-1]) / 2))
    return info_noise(knots, log_s, np.asarray(weight(level), np.float64))


def read_run() -> dict[str, list[float]]:
    """Return "loss" and "stage" of the first steps, and the final "validation_loss" per cluster."""
    return json.loads(RUN.read_text())


def record(workdir: str) -> None:
    """Write digits_run.json from a run that logged every step."""
    history = read_history(workdir)
    steps = [record for record in history if "loss" in record][:RECORDED]
    if [record["step"] for record in steps] != list(range(1, RECORDED + 1)):
        raise SystemExit(f"{workdir} has not logged each of its first {RECORDED} steps")
    last = [record for record in history if "validation_loss" in record][-1]
    validated = [value for name, value in last.items() if name.startswith("validation_loss/")]
    content = {
        "loss": [float(np.float32(record["loss"])) for record in steps],
        "stage": [int(record["stage"]) for record in steps],
        "validation_loss": [round(value, 6) for value in validated],
    }
    RUN.write_text(json.dumps(content) + "\n")


def _figure(panels: int, label: str, one_y_axis: bool):
    figure = Figure(figsize=(8.4, 3.5), dpi=140, layout="constrained")
    axes = figure.subplots(1, panels, sharey=one_y_axis)
    axes[0].set_ylabel(label)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _u_axis(axis) -> None:
    axis.set_xlim(0, 1)
    axis.set_xlabel("u (0 = clean, 1 = pure noise)")


def _legend(figure, axes) -> None:
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10
    )


def _save(path: Path, figure) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    plots.save_png(path, np.asarray(canvas.buffer_rgba())[..., :3])


FIGURES = {
    "concepts_levels.png": levels,
    "concepts_stages.png": stages,
    "concepts_patience.png": patience,
    "concepts_densities.png": densities,
}


def main(arguments: list[str]) -> None:
    if arguments and arguments[0].startswith("--record="):
        record(arguments[0].partition("=")[2])
        return
    folder = Path(arguments[0]) if arguments else HERE.parent / "images"
    for name, draw in FIGURES.items():
        draw(folder / name)


if __name__ == "__main__":
    main(sys.argv[1:])
