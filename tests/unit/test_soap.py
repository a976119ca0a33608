"""SOAP against its definition, and what an optimiser owes a training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from trainings import assert_resumes_exactly, config_of

from eqcalc.errors import ConfigError, NonFiniteError
from eqcalc.training import soap
from eqcalc.training.run import train
from eqcalc.training.soap import Soap
from eqcalc.training.training_options import TrainingOptions

SHAPES = [(5,), (4, 6), (4, 6), (3, 4, 6), (7, 7), (9, 1)]


def weights_and_gradients(
    shapes: list[tuple[int, ...]], n_steps: int
) -> tuple[list[Tensor], list[list[Tensor]]]:
    generator = torch.Generator().manual_seed(7)

    def draw() -> list[Tensor]:
        return [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]

    weights = [torch.nn.Parameter(value) for value in draw()]
    return weights, [draw() for _ in range(n_steps)]


def run(optimizer: Soap, weights: list[Tensor], gradients: list[list[Tensor]]) -> None:
    for drawn in gradients:
        for weight, gradient in zip(weights, drawn, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()


def expected_of_a_matrix(
    weight: Tensor, gradients: list[Tensor], rate: float, every: int
) -> Tensor:
    """Return a matrix after SOAP as its paper defines it: one matrix, no stacks."""
    beta = 0.95
    turns = [size <= soap.LARGEST_SIDE for size in weight.shape]
    covariances = [torch.zeros(n, n, dtype=torch.float64) for n in weight.shape]
    bases = [torch.eye(n, dtype=torch.float64) for n in weight.shape]
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for k, gradient in enumerate(gradients):
        if k > 0:
            turned = bases[0].T @ gradient @ bases[1]
            mean = beta * mean + (1 - beta) * gradient  # not in the basis
            square = beta * square + (1 - beta) * turned**2
            numerator = bases[0].T @ mean @ bases[1] / (1 - beta**k)
            step = numerator / ((square / (1 - beta**k)).sqrt() + 1e-8)
            weight = weight - rate * bases[0] @ step @ bases[1].T
        for side, product in enumerate((gradient @ gradient.T, gradient.T @ gradient)):
            covariances[side] = beta * covariances[side] + (1 - beta) * product
            covariance, basis = covariances[side], bases[side]
            if not turns[side] or k % every > 0:
                continue
            if k == 0:
                bases[side] = torch.linalg.eigh(covariance).eigenvectors.flip(-1)
                continue
            order = torch.diagonal(basis.T @ covariance @ basis).argsort(descending=True)
            bases[side] = torch.linalg.qr(covariance @ basis[:, order]).Q
            square = square.index_select(side, order)
    return weight


# The first gradient fixes all eigenvectors of the shorter side alone.
@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (4, 6), (6, 4), (2, 6, 4)])
def test_steps_are_those_of_the_definition(shape, monkeypatch):
    monkeypatch.setattr(soap, "LARGEST_SIDE", 4)
    weights, gradients = weights_and_gradients([shape, shape], 9)
    begun = [weight.detach().clone() for weight in weights]
    run(Soap(weights, 0.01, every=3), weights, gradients)
    for k, weight in enumerate(weights):
        found = weight.detach().reshape(-1, *shape[-2:])
        for i, start in enumerate(begun[k].reshape(found.shape)):
            of_one = [drawn[k].reshape(found.shape)[i] for drawn in gradients]
            expected = expected_of_a_matrix(start, of_one, 0.01, every=3)
            torch.testing.assert_close(found[i], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.gpu
def test_a_gpu_makes_the_steps_of_a_cpu(monkeypatch):
    monkeypatch.setattr(soap, "LARGEST_SIDE", 4)
    shapes = [(4, 4), (3, 4, 4), (4, 6), (6, 4), (5,)]
    weights, gradients = weights_and_gradients(shapes, 9)
    others = [torch.nn.Parameter(weight.detach().cuda()) for weight in weights]
    run(Soap(weights, 0.01, every=3), weights, gradients)
    on_gpu = [[gradient.cuda() for gradient in drawn] for drawn in gradients]
    run(Soap(others, 0.01, every=3), others, on_gpu)
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(other.cpu(), weight, rtol=1e-8, atol=1e-10)


def test_vectors_and_long_sides_are_moved_as_by_adam(monkeypatch):
    monkeypatch.setattr(soap, "LARGEST_SIDE", 3)
    weights, gradients = weights_and_gradients(SHAPES, 6)
    others = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    run(Soap(weights, 0.01, betas=(0.9, 0.99)), weights, gradients)
    adam = torch.optim.Adam(others, 0.01, betas=(0.9, 0.99))
    run(adam, others, gradients[1:])  # the first step of SOAP learns the covariances alone
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-9, atol=1e-11)


def test_a_state_that_was_saved_goes_on_bit_for_bit(tmp_path):
    weights, gradients = weights_and_gradients(SHAPES, 14)
    others = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    run(Soap(weights, 0.01, every=4), weights, gradients)
    first = Soap(others, 0.01, every=4)
    run(first, others, gradients[:6])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Soap(others, 0.5, every=4)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    run(second, others, gradients[6:])
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def test_a_copied_state_is_its_own():
    weights, gradients = weights_and_gradients(SHAPES, 4)
    optimizer = Soap(weights, 0.01)
    run(optimizer, weights, gradients[:2])
    kept = copy.deepcopy(optimizer.state_dict())
    run(optimizer, weights, gradients[2:])
    now = optimizer.state_dict()["state"][1]
    assert not torch.equal(kept["state"][1]["exp_avg"], now["exp_avg"])
    assert (kept["state"][1]["step"], now["step"]) == (2, 4)


def test_a_weight_without_a_gradient_stays_and_its_neighbours_do_not():
    weights, gradients = weights_and_gradients(SHAPES, 5)
    begun = [weight.detach().clone() for weight in weights]
    optimizer = Soap(weights, 0.01, weight_decay=0.1)
    for drawn in gradients:
        for weight, gradient in zip(weights, drawn, strict=True):
            weight.grad = gradient
        weights[1].grad = None  # of the shape of the next one
        optimizer.step()
    assert torch.equal(weights[1], begun[1])
    assert not torch.equal(weights[2], begun[2])


def test_weights_decay_apart_from_the_gradient():
    weights, gradients = weights_and_gradients(SHAPES, 2)
    others = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    begun = [weight.detach().clone() for weight in weights]
    run(Soap(weights, 0.01, weight_decay=0.3), weights, gradients)
    run(Soap(others, 0.01), others, gradients)
    for weight, other, start in zip(weights, others, begun, strict=True):
        torch.testing.assert_close(other - weight, 0.01 * 0.3 * start, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_a_resumed_training_equals_an_uninterrupted_one(schedule, tmp_path):
    config = config_of(tmp_path, optimizer="soap", max_epochs=14, schedule=schedule)
    assert_resumes_exactly(config, tmp_path)


def test_a_run_does_not_change_its_optimizer(tmp_path):
    train(config_of(tmp_path, max_epochs=1), tmp_path / "run")
    changed = config_of(tmp_path, max_epochs=2, optimizer="soap")
    with pytest.raises(ConfigError, match="cannot be resumed with another optimizer"):
        train(changed, tmp_path / "run", resume=True)


def test_a_training_that_diverges_in_its_first_step_is_told_as_such(tmp_path, monkeypatch):
    from eqcalc.training import gradients

    monkeypatch.setattr(gradients, "loss", lambda found, *_: found.energy.sum() * torch.nan)
    with pytest.raises(NonFiniteError, match="the training diverged in epoch 1"):
        train(config_of(tmp_path, optimizer="soap", max_epochs=1), tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "soup"}, "one of adamw, soap, found 'soup'.* Did you mean 'soap'"),
        ({"optimizer": 3}, r"optimizer in \[training\] must be a string, found 3"),
        ({"optimizer": "soap", "amsgrad": True}, 'amsgrad is AdamW.s, and optimizer is "soap"'),
        ({"optimizer": "soap", "amsgrad": False}, "leave amsgrad out"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**options)
