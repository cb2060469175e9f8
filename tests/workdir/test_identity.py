"""The identity of a run: keys that may change on resume, and the message for the others."""

import json

from cdt.config import default_config, flatten
from cdt.workdir.identity import identity, identity_differences


def test_identity_has_the_keys_that_must_not_change():
    saved = json.loads(json.dumps(flatten(default_config())))
    config = default_config()
    assert identity_differences(config, identity(config)) == []
    config.log.every = "1 steps"
    config.train.duration = "9999 steps"
    config.sample.num = 3
    config.mesh.data = 1
    config.model.unroll = True
    known = identity(config)
    saved = {k: v for k, v in saved.items() if k in known}
    assert identity_differences(config, saved) == []
    config.optim.lr = 3e-4
    config.curriculum.patience.steps = 7
    config.model.depth = 9
    differences = identity_differences(config, saved)
    assert len(differences) == 3
    assert "optim.lr (saved: 0.0001, now: 0.0003)" in differences


def test_a_newer_key_has_its_default():
    config = default_config()
    older = {k: v for k, v in identity(config).items() if k != "model.dropout"}
    assert len(older) == len(identity(config)) - 1
    assert identity_differences(config, older) == []
    config.model.dropout = 0.1
    assert identity_differences(config, older) == ["model.dropout (saved: 0.0, now: 0.1)"]
