"""A small recipe for the tests of the run store and the training loop: an MLP that separates two arcs of points."""
from __future__ import annotations

import math
import os
import signal
import sys

import torch
from torch import nn

from dgnb.run_store import RunSpec, RunStore, recipe
from dgnb.scales import generator
from dgnb.training import Schedule, fit, lr_scheduler, make_fabric


def arcs(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points on two interlocking half circles, and which one each is on."""
    g = generator("arcs", seed)
    angle, label = math.pi * torch.rand(count, generator=g), torch.arange(count) % 2
    x = torch.stack([torch.cos(angle) * (1 - 2 * label) + label, torch.sin(angle) * (1 - 2 * label) + label / 2], 1)
    return x + 0.1 * torch.randn(count, 2, generator=g), label


def network(dropout: float = 0.1, norm: bool = True) -> nn.Sequential:
    """Two hidden layers, with dropout and batch norm so that generators and buffers matter."""
    return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def loader(count: int = 64, batch: int = 16, seed: int = 0) -> torch.utils.data.DataLoader:
    """Shuffled batches; the shuffling comes from torch's global generator."""
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*arcs(count, seed)), batch_size=batch, shuffle=True)


def cross_entropy_step(batch, loop):
    """One step down the cross-entropy; stops the process with SIGKILL where DGNB_TEST_KILL says, in the middle of an update."""
    x, y = batch
    loss = nn.functional.cross_entropy(loop["net"](x), y)
    loop.optimizers["net"].zero_grad()
    loop.backward(loss)
    if os.environ.get("DGNB_TEST_KILL") == str(loop.iteration):
        with torch.no_grad():
            next(loop["net"].parameters()).add_(1)
        os.kill(os.getpid(), signal.SIGKILL)
    loop.optimizers["net"].step()
    return {"loss": loss}


@recipe("toy-arcs", version=1)
def train_arcs(context):
    """Train the toy network as the settings say."""
    s = context.spec.settings
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=s["lr"])
    schedule = lr_scheduler(optimizer, Schedule(((0, 0.1), (10, 1.0), (s["iterations"], 0.0))))
    result = fit({"net": net}, {"net": optimizer}, cross_entropy_step, loader(), s["iterations"], schedulers={"net": schedule},
                 checkpoint_every=s.get("checkpoint_every", 7), log_every=5, context=context)
    net.eval()
    x, y = arcs(200, seed=1)
    with torch.no_grad():
        right = (net(x.to(next(net.parameters()).device)).argmax(1).cpu() == y)
    context.save_per_query({"right": right.numpy()})
    context.save_weights(net, half=False)
    context.save_metrics({"accuracy": float(right.float().mean()), "iterations": result.iteration})


def arcs_spec(iterations: int = 40, seed: int = 0, **settings) -> RunSpec:
    """The spec of a toy run."""
    return RunSpec("toy-arcs", 1, {"lr": 0.02, "iterations": iterations, **settings}, {"set": "arcs", "count": 64}, seed)


if __name__ == "__main__":  # toy_recipe.py LOCAL ITERATIONS: ask a store for a run, training it if need be
    run = RunStore(sys.argv[1], shipped=f"{sys.argv[1]}-shipped").get(arcs_spec(int(sys.argv[2])), train=True)
    print(run.record["resumed"], os.getpid(), run.record["seconds"])
