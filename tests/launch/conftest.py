import pytest

from launch_fakes import Launch, Worker, make_repository


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("launch") / "repository")


@pytest.fixture
def launch(tmp_path, repository):
    return Launch(tmp_path, repository)


@pytest.fixture
def worker(tmp_path, repository):
    worker = Worker(tmp_path / "home", repository)
    yield worker
    worker.run("stop", STOP_SECONDS="0")
