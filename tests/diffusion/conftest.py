"""The noise families, with their predictions."""

import pytest

from cdt.diffusion import prediction, process, schedules


@pytest.fixture(params=["ddpm-linear", "ddpm-cosine", "edm", "flow-linear", "flow-gvp"])
def family(request):
    """Yield each noise family with its predictions, by name."""
    if request.param == "edm":
        p = process.edm(-1.2, 1.2)
        return p, {"edm": prediction.edm_prediction(0.5)}
    if request.param.startswith("flow"):
        paths = {"flow-linear": schedules.linear_path(), "flow-gvp": schedules.gvp_path()}
        p = process.flow(paths[request.param])
        return p, {"velocity": prediction.velocity_prediction(p)}
    betas = {
        "ddpm-linear": schedules.linear_betas(1000),
        "ddpm-cosine": schedules.cosine_betas(1000),
    }
    p = process.ddpm(betas[request.param])
    return p, {
        "eps": prediction.eps_prediction(),
        "x0": prediction.x0_prediction(),
        "v": prediction.v_prediction(p),
    }
