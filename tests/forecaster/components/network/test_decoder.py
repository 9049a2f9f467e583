"""Tests of the decoder, the part of the network that computes the horizons one after another."""

from __future__ import annotations

import torch

from forecaster.components.network.decoder import Decoder


def random_decoder(known: int = 3) -> Decoder:
    rng = torch.Generator().manual_seed(0)
    decoder = Decoder(8, known, 5, rng)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.normal_(0.0, 0.5, generator=rng)
    return decoder.eval()


def test_forecasts_of_near_horizons_do_not_depend_on_decoder_length() -> None:
    decoder, top, known = random_decoder(), torch.randn(2, 4, 8), torch.randn(2, 60, 4, 3)
    with torch.inference_mode():
        near, far = decoder(top, known[:, :6]), decoder(top, known)
    assert near.shape == (5, 2, 4, 6)
    assert far.shape == (5, 2, 4, 60)
    assert torch.isfinite(far).all()
    torch.testing.assert_close(far[..., :6], near)


def test_a_known_covariate_changes_no_forecast_of_an_earlier_horizon() -> None:
    decoder, top, known = random_decoder(), torch.randn(2, 4, 8), torch.randn(2, 6, 4, 3)
    other = known.clone()
    other[1, 3, 2] += 1.0
    with torch.inference_mode():
        changed = (decoder(top, known) - decoder(top, other)).abs().amax(dim=0) > 1e-6
    expected = torch.zeros(2, 4, 6, dtype=torch.bool)
    expected[1, 2, 3:] = True
    assert torch.equal(changed, expected)


def test_the_decoder_broadcasts_features_that_all_series_share() -> None:
    decoder, top, known = random_decoder(), torch.randn(2, 4, 8), torch.randn(2, 6, 1, 3)
    with torch.inference_mode():
        torch.testing.assert_close(decoder(top, known), decoder(top, known.expand(2, 6, 4, 3)))


def test_the_decoder_works_without_known_features() -> None:
    with torch.inference_mode():
        assert random_decoder(0)(torch.randn(2, 4, 8), torch.empty(2, 6, 1, 0)).shape == (
            5,
            2,
            4,
            6,
        )


def test_decoder_gradients_reach_its_input_and_every_weight() -> None:
    decoder, top = random_decoder(), torch.randn(2, 4, 8, requires_grad=True)
    decoder(top, torch.randn(2, 6, 4, 3)).square().sum().backward()
    assert top.grad is not None
    assert top.grad.abs().sum() > 0
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in decoder.parameters())
