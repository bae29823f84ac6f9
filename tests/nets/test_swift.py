import pytest
import torch

from nstorm.nets import SwiFT, create_model, from_published
from tests.conftest import load_golden, relative_error


@pytest.mark.parametrize("name", ["swift", "swift_shifted"])
def test_golden(name):
    golden = load_golden(name)
    net = from_published(golden.config, golden.with_prefix("weight."), kind="swift")
    with torch.no_grad():
        assert relative_error(net.forward_features(golden.input), golden.tensors["y"]) <= 1e-5


@pytest.mark.parametrize(("final_norm", "parameters", "tensors"), [(False, 4_314_636, 163), (True, 4_315_212, 165)])
def test_sizes_of_the_published_models(final_norm, parameters, tensors):
    with torch.device("meta"):
        net = create_model("swift_base", final_norm=final_norm)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == tensors


def test_published_weights_with_a_final_norm():
    golden = load_golden("swift")
    norm = {"norm.weight": torch.randn(24), "norm.bias": torch.randn(24)}
    net = from_published(golden.config, golden.with_prefix("weight.") | norm, kind="swift")
    with torch.no_grad():
        features = net.forward_features(golden.input).movedim(1, -1)
    expected = torch.nn.functional.layer_norm(golden.tensors["y"].movedim(1, -1), (24,), *norm.values())
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_one_number_of_heads_per_stage():
    with pytest.raises(ValueError, match=r"num_heads \(3, 6\) has 2 entries, expected one per stage: 4"):
        SwiFT(num_heads=(3, 6))
