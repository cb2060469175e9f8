"""--mode=sample: PNG grids and an npz of images from the newest checkpoint of a run."""

import io

import numpy as np
from ml_collections import ConfigDict

from cdt import from_config
from cdt.devices.agreement import errors_of_all
from cdt.errors import EXIT_FINISHED, user_errors
from cdt.files import atomic
from cdt.monitoring import plots
from cdt.run.images import describe_samples, make_generator
from cdt.run.open_run import open_run
from cdt.run.weights import load_params


def sample(config: ConfigDict, workdir: str) -> int:
    """Write images of the newest checkpoint to `samples/step_<step>/`; return the exit code.

    The files are `grid.png` and `samples.npz`: arr_0 uint8[n, H, W, C]; arr_1 int32[n], the
    labels, if the model has classes; captions str[n], if it reads text.

    Raises:
      UserError: there is no checkpoint, or `config.sample` does not fit the run.
    """
    with errors_of_all():
        from_config.check_config(config, "sample")
    run = open_run(config, workdir)
    with errors_of_all(), user_errors():
        n = config.sample.num
        generator = make_generator(run)
    step, params = load_params(run)
    images = generator.images(params, n)
    if images is None:
        return EXIT_FINISHED

    folder = run.path / "samples" / f"step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"arr_0": images}
    labels = generator.condition(np.arange(n)).get("label")
    if labels is not None:
        arrays["arr_1"] = labels
    if generator.captions is not None:
        arrays["captions"] = np.array(generator.captions(np.arange(n)))
    plots.save_png(folder / "grid.png", generator.grid(images[:100]))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    atomic.write(folder / "samples.npz", buffer.getvalue())
    about = ", ".join(f"{k} {v}" for k, v in describe_samples(config, step, len(images)).items())
    print(f"{folder / 'samples.npz'}: {about}")
    print(f"{folder / 'grid.png'}: the first {len(images[:100])}")
    return EXIT_FINISHED
