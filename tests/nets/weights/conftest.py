import huggingface_hub
import pytest


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def hf_hub_download(**kwargs):
        raise AssertionError(f"the hub was asked for {kwargs}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
