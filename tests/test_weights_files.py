"""Published weights are fetched whole or not at all, and found without a network."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from sap_detr import model_zoo, published_weights, weights_files
from sap_detr.checkpoint import save_checkpoint_file
from sap_detr.detector import Detector
from sap_detr.small_models import small_models
from sap_detr.weights_files import WeightsError, fetch, find_weights

CONFIG = "detr/detr_small_shapes.py"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The bytes of a file of weights for CONFIG."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("published") / "file.pth"
    state = model_zoo.get(CONFIG, num_classes=4).state_dict()
    save_checkpoint_file({"model": state, "class_names": list("abcd")}, file)
    return file.read_bytes()


@pytest.fixture
def server(content):
    """A server with the whole file, one that is cut off, and another one; counts what is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/gone.pth":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            body = {"/cut.pth": content[:1000], "/other.pth": content[::-1]}
            self.wfile.write(body.get(self.path, content))

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("localhost", 0), Handler) as opened:
        thread = threading.Thread(target=opened.serve_forever)
        thread.start()
        yield f"http://localhost:{opened.server_port}", asked
        opened.shutdown()
        thread.join()


@pytest.fixture
def publish(content, server, monkeypatch, tmp_path):
    """Make a file of the server the published weights of CONFIG."""
    monkeypatch.setenv(weights_files.FOLDER_VARIABLE, str(tmp_path / "weights"))
    digest = hashlib.sha256(content).hexdigest()[:8]

    def publish(path, address=None):
        known = published_weights.PublishedWeights(
            CONFIG,
            f"small-{digest}.pth",
            "https://example.org",
            f"{server[0]}/{path}" if address is None else address,
            digest,
        )
        monkeypatch.setattr(weights_files, "PUBLISHED", (known,))
        return known

    return publish


def test_weights_are_fetched_once(publish, server, content, tmp_path):
    known = publish("file.pth")
    folder = tmp_path / "deep" / "folder"
    for _ in range(2):
        file = fetch(known, folder, progress=False)
        assert file == folder / known.file
        assert file.read_bytes() == content
    assert server[1] == ["/file.pth"]
    assert list(folder.iterdir()) == [file]


@pytest.mark.parametrize(
    "path, message",
    [
        ("cut.pth", "was cut off or is another file"),
        ("other.pth", "was cut off or is another file"),
        ("gone.pth", "can't be fetched.*404"),
    ],
)
def test_what_is_not_the_published_file_is_not_kept(publish, tmp_path, path, message):
    with pytest.raises(WeightsError, match=message):
        fetch(publish(path), tmp_path / "folder", progress=False)
    assert list((tmp_path / "folder").iterdir()) == []


def test_trained_models_are_fetched_and_then_need_no_network(publish, server, content, capsys):
    known = publish("file.pth")
    with pytest.raises(WeightsError, match=f"sap-detr weights get {known.name}"):
        find_weights(known.name)
    models = [model_zoo.get(CONFIG, trained=True) for _ in range(2)]
    assert server[1] == ["/file.pth"]
    assert [model.num_classes for model in models] == [4, 4]
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name])
    publish("", address="http://localhost:1/nobody.pth")
    assert model_zoo.get_config(CONFIG, trained=True).train.init_checkpoint.endswith(known.file)
    for name in (known.name, known.file, CONFIG, "detr/detr_small_shapes"):
        assert find_weights(name).read_bytes() == content


def test_without_a_network_it_is_said_what_to_do(publish, tmp_path):
    publish("", address="http://localhost:1/nobody.pth")
    with pytest.raises(FileNotFoundError, match=f"put it into {tmp_path / 'weights'}"):
        model_zoo.get(CONFIG, trained=True)


def test_without_an_address_it_is_said_where_they_are(publish):
    known = publish("", address="")
    with pytest.raises(FileNotFoundError, match=r"by hand, see https://example\.org"):
        model_zoo.get(CONFIG, trained=True)
    with pytest.raises(WeightsError, match="by hand"):
        find_weights(known.name)


def test_a_file_that_is_there_goes_before_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small_sap_detr").write_bytes(b"")
    assert find_weights("small_sap_detr").resolve() == tmp_path / "small_sap_detr"
    assert str(find_weights("nothing.pth")) == "nothing.pth"


@pytest.mark.parametrize("model", small_models(), ids=lambda model: model.name)
def test_small_models_come_along(model):
    assert model.file.stat().st_size <= 4e6
    training = model.training()
    assert training["config"] in model_zoo.list_configs()
    assert {"seed", "iterations", "changes", "sap_detr"} <= training.keys()
    assert 15 < training["AP"] < 100
    detector = Detector(model.name, "cpu")
    assert detector.class_names == ["ellipse", "rectangle", "triangle", "star", "cross", "ring"]
    parameters = list(detector.predictor.model.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
