"""The rate follows its course, weights decay and norms do not, and the state survives as named tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from topcoat.api.training import Scheduler
from topcoat_trainer.loop import optimizer


def rates(scheduler: Scheduler, total: int = 100, warmup: float = 0.1) -> list[float]:
    return [
        optimizer.learning_rate(step, total, peak=1.0, warmup_ratio=warmup, scheduler=scheduler)
        for step in range(total)
    ]


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_every_course_rises_to_its_peak_and_never_reaches_zero_before_the_end(scheduler: Scheduler) -> None:
    course = rates(scheduler)
    assert course[:10] == sorted(course[:10])
    assert course[10] == 1.0 == max(course)
    assert all(rate > 0 for rate in course)
    assert course[10:] == sorted(course[10:], reverse=True)


def test_the_courses_are_the_known_ones() -> None:
    assert rates(Scheduler.LINEAR, 10, 0.0)[5] == 0.5
    assert rates(Scheduler.COSINE, 10, 0.0)[5] == pytest.approx(0.5)
    assert set(rates(Scheduler.CONSTANT, 10, 0.0)) == {1.0}
    assert rates(Scheduler.LINEAR, 1, 0.0) == [1.0]


@pytest.mark.parametrize("total", [1, 2, 7])
def test_even_the_shortest_run_learns_in_every_step(total: int) -> None:
    assert all(rate > 0 for scheduler in Scheduler for rate in rates(scheduler, total, 0.99))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)


def test_weights_decay_and_biases_and_norms_do_not() -> None:
    parameters = dict(Net().named_parameters())
    made = optimizer.adamw(parameters, 0.1)
    decays = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    by_name = {name: decays[id(parameter)] for name, parameter in parameters.items()}
    assert by_name == {"linear.weight": 0.1, "linear.bias": 0.0, "norm.weight": 0.0, "norm.bias": 0.0}


def test_the_state_goes_out_and_comes_back_bit_for_bit() -> None:
    def stepped(
        steps: int, start: dict[str, torch.Tensor] | None = None, weights: Net | None = None
    ) -> tuple[Net, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        net = weights or Net()
        parameters = dict(net.named_parameters())
        made = optimizer.adamw(parameters, 0.1)
        if start is not None:
            optimizer.restore(made, parameters, start)
        for _ in range(steps):
            optimizer.set_rate(made, 0.1)
            made.zero_grad()
            torch.autograd.backward(net.linear(torch.ones(2, 3)).square().sum() + net.norm.weight.sum())
            for parameter in parameters.values():
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            made.step()
        return net, {name: tensor.clone() for name, tensor in optimizer.state(made, parameters).items()}

    whole, whole_state = stepped(4)
    half, half_state = stepped(2)
    rest, rest_state = stepped(2, half_state, half)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))
    assert all(torch.equal(whole_state[name], rest_state[name]) for name in whole_state)
    assert float(whole_state["step/linear.weight"]) == 4
