"""One joint step of DG-Net, all losses on: ours against a straightforward step that makes the released code's passes one by one.

The baseline below shares our layers and our mathematics (`released` recipe), but goes through them as the released code does: every batch of eight on its own,
12 passes of E_a (4 clean, 4 erased, 2 of a deep copy that judges, 2 of the student), 4 of the teacher, 4 of E_s, 8 of G with the upsampled maps convolved
directly, 6 of D, one backward of the sum, gradients that nobody reads, and optimizers that go from tensor to tensor. Its count agrees with what we counted in
the released code itself (644.5 GFLOP for each image of a batch; 14,738 operations and 2,912 of the optimizers), which takes about 62 s and 15 GiB for a step on a 2-core Xeon.

Every variant is a process of its own, and they step in turn, so that time and memory come from the same steps: about twenty minutes on two quiet cores.
`python benchmarks/bench_joint_step.py [--quick] [--batch N]`.
"""
from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
import weakref
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dgnb.backbones import build_network
from dgnb.dgnet.losses import TERMS, Networks, Views
from dgnb.dgnet.step import DGNetSettings, JointStep, TwoStreams, dgnet_settings, make_networks, make_optimizers
from dgnb.dgnet.structure import ConvBlock, InstanceNorm
from dgnb.dgnet.teacher import Teacher
from dgnb.worlds import make_world

PARTS = ("appearance", "structure", "decoder", "discriminator")
FULL = 100_000  # an iteration at which every warm-up is over


# --- the baseline

class PlainLayerNorm(nn.Module):
    """Layer norm of G in the operations of its definition."""

    def __init__(self, norm: nn.Module):  # ours, whose weights it shares
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lined_up, per_image, per_channel = x.flatten(1), (-1, 1, 1, 1), (1, -1, 1, 1)
        x = (x - lined_up.mean(1).view(per_image)) / (lined_up.std(1).view(per_image) + self.eps)
        return x * self.weight.view(per_channel) + self.bias.view(per_channel)


class PlainAdaptiveBlock(nn.Module):
    """A block of G with AdaIN as the released code has it: batch norm of the images' channels, lined up."""

    def __init__(self, block: nn.Module):  # ours, whose weights it shares
        super().__init__()
        self.first, self.second = block.first, block.second

    def forward(self, x: torch.Tensor, style: torch.Tensor, convolved: None = None) -> torch.Tensor:
        y = F.leaky_relu(self.adapt(self.first(x), style[:, 0], style[:, 1]), 0.2)
        return x + self.adapt(self.second(y), style[:, 2], style[:, 3])

    @staticmethod
    def adapt(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        lined_up = x.reshape(1, -1, *x.shape[2:])
        return F.batch_norm(lined_up, None, None, scale.reshape(-1), shift.reshape(-1), True, 0.0, 1e-5).view_as(x)


def plainly(nets: Networks) -> Networks:
    """The same networks with nothing clever inside: direct upsampling, torch's norms, padding also where there is nothing to pad."""
    for block in nets.decoder.up:
        block.how, block.norm = "direct", PlainLayerNorm(block.norm)
    nets.decoder.blocks = nn.ModuleList([PlainAdaptiveBlock(block) for block in nets.decoder.blocks])
    for module in [m for part in PARTS for m in getattr(nets, part).modules()]:
        if isinstance(module, ConvBlock):
            module.conv.padding_mode = "reflect"
        elif isinstance(module, InstanceNorm):
            module.__class__ = nn.InstanceNorm2d
    return nets


def plain_optimizers(nets: Networks, settings: DGNetSettings) -> dict[str, torch.optim.Optimizer]:
    """The same optimizers, from tensor to tensor."""
    made = make_optimizers(nets, settings)
    for optimizer in made.values():
        for group in optimizer.param_groups:
            group["foreach"], group["fused"] = False, False
    return made


def l1(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (found - wanted.detach()).abs().mean()


class PassByPass:
    """The baseline's step."""

    def __init__(self, nets: Networks, settings: DGNetSettings, optimizers: dict[str, torch.optim.Optimizer]):
        self.nets, self.settings, self.optimizers, self.coins = nets, settings, optimizers, JointStep(settings)

    def __call__(self, batch: dict, iteration: int) -> dict[str, torch.Tensor]:
        """Losses of one step, by our names."""
        weights = {name: schedule(iteration) for name, schedule in self.settings.loss_weights.items()}
        views = Views.of(batch["a"], batch["b"])
        self.paint(views)
        erased = self.look_at_real(views)
        critic = self.teach_critic(views)
        terms = self.rebuild(views) | erased | self.read_again(views, self.coins.coin(iteration)) | self.feed(views) | {"adv": self.fool(views)}
        for name in ("encoder", "generator"):
            self.optimizers[name].zero_grad(set_to_none=True)
        sum(weights[name] * terms[name] for name in TERMS).backward()
        for name in ("generator", "encoder"):
            self.optimizers[name].step()
        return {name: terms[name].detach() for name in TERMS} | critic

    def paint(self, views: Views) -> None:
        """Two swaps, two rebuilt, two from the positive: six of the eight passes of G; four clean of E_a; two of E_s."""
        e_s, e_a, g = self.nets.structure, self.nets.appearance, self.nets.decoder
        (a, b), (pa, pb) = views.image, views.positive
        self.s_a, self.s_b = e_s(a), e_s(b)
        self.f_a, self.f_b = e_a.look(a).code.detach(), e_a.look(b).code.detach()
        self.x_ba, self.x_ab = g(self.s_b, self.f_a), g(self.s_a, self.f_b)
        self.rebuilt = g(self.s_a, self.f_a), g(self.s_b, self.f_b)
        fp_a, fp_b = e_a.look(pa).code.detach(), e_a.look(pb).code.detach()
        self.from_positive = g(self.s_a, fp_a), g(self.s_b, fp_b)

    def rebuild(self, views: Views) -> dict[str, torch.Tensor]:
        """Reconstructions."""
        return {name: sum(l1(x, real) for x, real in zip(painted, views.image)) for name, painted in (("img1", self.rebuilt), ("img2", self.from_positive))}

    def look_at_real(self, views: Views) -> dict[str, torch.Tensor]:
        """Identification of erased images: four more passes of E_a."""
        (a, b), (pa, pb) = [self.nets.appearance(x) for x in views.erased], [self.nets.appearance(x) for x in views.positive_erased]
        (ya, yb), ce = views.label, F.cross_entropy
        return {"id": ce(a[0], ya) + ce(b[0], yb), "id_fine": ce(a[1], ya) + ce(b[1], yb), "positive": ce(pa[0], ya) + ce(pb[0], yb)}

    def teach_critic(self, views: Views) -> dict[str, torch.Tensor]:
        """D on one painted and one real batch, twice, with R1 for each scale: four passes of D."""
        loss, penalty, count = 0.0, 0.0, len(views.image[0])
        for painted, real in zip((self.x_ba.detach(), self.x_ab.detach()), views.image):
            real = real.detach().clone().requires_grad_()
            for on_fake, on_real in zip(self.nets.discriminator(painted), self.nets.discriminator(real)):
                loss = loss + (on_fake ** 2).mean() + ((on_real - 1) ** 2).mean()
                slope, = torch.autograd.grad(on_real.sum(), real, create_graph=True)
                penalty = penalty + slope.pow(2).reshape(count, -1).sum(1).mean()
        self.optimizers["critic"].zero_grad(set_to_none=True)
        (loss + self.settings.r1 * penalty).backward()
        self.optimizers["critic"].step()
        return {"d": loss.detach(), "r1": penalty.detach()}

    def read_again(self, views: Views, train_structure: bool) -> dict[str, torch.Tensor]:
        """Structure and appearance of the painted, a copy judging, and back again: two passes each of E_s, E_a and G."""
        copied = copy.deepcopy(self.nets.structure)
        again = [self.nets.structure(x.detach()) if train_structure else copied(x) for x in (self.x_ba, self.x_ab)]
        judge = copy.deepcopy(self.nets.appearance)
        for dropout in (judge.prim.dropout, judge.fine.dropout):
            dropout.eval()
        seen = [judge.look(x) for x in (self.x_ba, self.x_ab)]
        found = [one.code.detach() for one in seen]
        verdict = [judge.prim.classify(one.prim) for one in seen]
        cycle = self.nets.decoder(again[1], found[0]), self.nets.decoder(again[0], found[1])
        return {"code2": l1(again[0], self.s_b) + l1(again[1], self.s_a), "code1": l1(found[0], self.f_a) + l1(found[1], self.f_b),
                "id_c": sum(F.cross_entropy(scores, label) for scores, label in zip(verdict, views.label)),
                "cycle": sum(l1(x, real) for x, real in zip(cycle, views.image))}

    def feed(self, views: Views) -> dict[str, torch.Tensor]:
        """The student's two passes of E_a and the teacher's four."""
        (prim_a, fine_a), (prim_b, fine_b) = (self.nets.appearance(x.detach()) for x in (self.x_ba, self.x_ab))
        kl = lambda scores, x: F.kl_div(scores.log_softmax(1), self.ask_teacher(x.detach()), reduction="batchmean")
        return {"prim": kl(prim_a, self.x_ba) + kl(prim_b, self.x_ab),
                "fine": F.cross_entropy(fine_a, views.label[1]) + F.cross_entropy(fine_b, views.label[0])}

    @torch.no_grad()
    def ask_teacher(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities averaged over the image and its mirror image."""
        network = self.nets.teacher.network
        return (network(x).softmax(1) + network(x.flip(-1)).softmax(1)) / 2

    def fool(self, views: Views) -> torch.Tensor:
        """G against the D that has just learned: two passes of D."""
        return sum(2 * ((verdict - 1) ** 2).mean() for x in (self.x_ba, self.x_ab) for verdict in self.nets.discriminator(x))


# --- both steps on equal networks

def build(settings: DGNetSettings, classes: int, device: str = "cpu", seed: int = 0) -> Networks:
    """Fresh networks, and a teacher who has opinions (an untrained one finds everybody equally likely)."""
    torch.manual_seed(seed)
    with torch.device(device):
        network = build_network(classes, settings.backbone, settings.dim, last_stride=2, truncate=settings.truncate)
        if device != "meta":
            nn.init.normal_(network.head.classifier.weight, std=0.15)
            remember_statistics(network, settings.size)
        return make_networks(settings, classes, Teacher(network, settings.recipe.teacher_statistics))


@torch.no_grad()
def remember_statistics(network: nn.Module, size: tuple[int, int]) -> None:
    """Running statistics of batch normalisation that fit the weights."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(torch.randn(8, 3, *size))
    for norm in norms:
        norm.momentum = 0.1


def draw(settings: DGNetSettings, classes: int, count: int, device: str = "cpu", dtype=torch.float32, seed: int = 0) -> dict:
    """Two random batches of people."""
    g = None if device == "meta" else torch.Generator().manual_seed(seed)
    image = lambda: torch.randn(count, 3, *settings.size, generator=g, dtype=dtype, device=device)
    stream = lambda: {name: image() for name in ("image", "erased", "positive", "positive_erased")} | {"label": torch.randint(classes, (count,), generator=g, device=device)}
    return {"a": stream(), "b": stream()}


class Ours:
    """`JointStep` without a training around it: on any device, also on none."""

    def __init__(self, nets: Networks, settings: DGNetSettings, optimizers: dict, autocast: torch.dtype | None = None):
        cast = lambda: torch.autocast(next(nets.appearance.parameters()).device.type, autocast) if autocast else nullcontext()
        fabric = SimpleNamespace(world_size=1, autocast=cast, backward=lambda loss, **options: loss.backward(**options))
        self.loop = SimpleNamespace(fabric=fabric, optimizers=optimizers, plain_optimizers=optimizers, plain_modules={name: getattr(nets, name) for name in PARTS})
        self.step = JointStep(settings, nets.teacher)

    def __call__(self, batch: dict, iteration: int) -> dict[str, torch.Tensor]:
        """Losses of one step."""
        self.loop.iteration = iteration
        return {name: loss.detach() for name, loss in self.step(batch, self.loop).items()}


# --- counts

class Counter(TorchDispatchMode):
    """Counts multiplications and additions of convolutions and matrix products, operations that reach the device (views do not), and bytes alive of what they made."""

    def __init__(self):
        super().__init__()
        self.flops = self.operations = self.alive = self.most_alive = 0
        self.seen = {}  # address of a storage -> a weak reference to it

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        self.operations += not func.is_view
        if not func.is_view and not func._schema.is_mutable:
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    self.follow(tensor.untyped_storage())
        return out

    def follow(self, storage: torch.UntypedStorage) -> None:
        """A storage that is new counts until it dies."""
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen[key] = weakref.ref(storage, lambda _: self.forget(key, size))
            self.alive += size
            self.most_alive = max(self.most_alive, self.alive)

    def forget(self, key: int, size: int) -> None:
        del self.seen[key]
        self.alive -= size


class Holder:
    """An optimizer that holds weights and clears gradients but moves nothing: for weights without numbers."""

    def __init__(self, weights: list[nn.Parameter]):
        self.param_groups = [{"params": weights}]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.param_groups[0]["params"]:
            p.grad = None

    def step(self) -> None:
        pass


def holders(nets: Networks) -> dict[str, Holder]:
    """One for each optimizer of `make_optimizers`."""
    weights = {name: list(getattr(nets, name).parameters()) for name in PARTS}
    return {"encoder": Holder(weights["appearance"]), "generator": Holder(weights["structure"] + weights["decoder"]), "critic": Holder(weights["discriminator"])}


def count_step(ours: bool, batch: int = 2, coin: bool = True) -> Counter:
    """Count one step at the published size without computing it: its memory is of activations and gradients, its operations include the optimizers'."""
    settings, classes, counter = dgnet_settings("paper"), 751, Counter()
    nets = build(settings, classes, "meta")
    step = Ours(nets, settings, holders(nets)) if ours else PassByPass(plainly(nets), settings, holders(nets))
    views, iteration = draw(settings, classes, batch, "meta"), next(n for n in range(FULL, 2 * FULL) if JointStep(settings).coin(n) == coin)
    with counter:
        step(views, iteration)
    most = counter.most_alive
    for module in vars(nets).values():
        module.to_empty(device="cpu")
    for optimizer in (make_optimizers if ours else plain_optimizers)(nets, settings).values():
        count_update(optimizer, counter)
    counter.most_alive = most
    return counter


def count_update(optimizer: torch.optim.Optimizer, counter: Counter) -> None:
    """Count the second step of an optimizer, which has its state already."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    with counter:
        optimizer.step()


# --- clocks

VARIANTS = {  # name -> (ours, autocast, parts in channels-last order)
    "baseline": (False, None, ()),
    "float32": (True, None, ()),
    "float32, E_a channels-last": (True, None, ("appearance", "teacher")),
    "bfloat16": (True, torch.bfloat16, ()),
    "bfloat16, E_a channels-last": (True, torch.bfloat16, ("appearance", "teacher")),
    "bfloat16, all channels-last": (True, torch.bfloat16, (*PARTS, "teacher")),
}
STEPS = {"baseline": 5, "float32": 5, "bfloat16, all channels-last": 5, "bfloat16": 2, "float32, E_a channels-last": 2, "bfloat16, E_a channels-last": 2}


def make_step(variant: str, settings: DGNetSettings, classes: int, device: str = "cpu"):
    """The step of a variant on fresh networks; each variant starts from the same weights."""
    ours, autocast, last = VARIANTS[variant]
    nets = build(settings, classes)
    for name, module in vars(nets).items():
        module.to(device, memory_format=torch.channels_last if name in last else torch.preserve_format)
    return Ours(nets, settings, make_optimizers(nets, settings), autocast) if ours else PassByPass(plainly(nets), settings, plain_optimizers(nets, settings))


def peak_memory() -> float:
    """GiB of main memory that this process ever held."""
    with suppress(OSError, StopIteration):
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)


def give_memory_back() -> None:
    """Freed memory goes back to the system, so that waiting processes do not hold it."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def worker(variant: str, batch: int) -> None:
    """A process that makes one step for each line it reads, and answers with seconds, processor seconds and its peak memory."""
    settings, classes = dgnet_settings("paper"), 751
    step = make_step(variant, settings, classes)
    for line in sys.stdin:
        number = int(line)
        views = draw(settings, classes, batch, seed=number)
        torch.manual_seed(number)
        start, cpu = time.perf_counter(), time.process_time()
        step(views, FULL + number)
        answer = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu, "memory": peak_memory()}
        del views
        give_memory_back()
        print(json.dumps(answer), flush=True)


class Process:
    """One variant at work."""

    def __init__(self, variant: str, batch: int):
        self.answers, command = [], [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--worker", variant, "--batch", str(batch)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> dict:
        """One more step."""
        self.process.stdin.write(f"{len(self.answers)}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process stopped with {self.process.wait()} (not enough memory? try a smaller --batch)")
        self.answers.append(json.loads(answer))
        return self.answers[-1]

    def close(self) -> None:
        """End it."""
        self.process.stdin.close()
        self.process.wait()

    def median(self, key: str) -> float:
        return statistics.median(answer[key] for answer in self.answers)


def take_turns(batch: int, steps: dict[str, int]) -> dict[str, Process]:
    """Every variant makes its steps, one of each in turn, beginning with another one in every round."""
    processes = {}
    try:
        for round in range(max(steps.values())):
            names = [name for name, count in steps.items() if round < count]
            for name in names[round % len(names):] + names[:round % len(names)]:
                if name not in processes:
                    processes[name] = Process(name, batch)
                answer = processes[name].step()
                print(f"  step {round + 1} of {steps[name]}, {name}: {answer['wall']:.1f} s, CPU {answer['cpu']:.1f} s, peak {answer['memory']:.2f} GiB", file=sys.stderr, flush=True)
    finally:
        for process in processes.values():
            process.close()
    return processes


def far_apart(some: list[dict], others: list[dict]) -> tuple[float, str]:  # losses of the same steps -> largest relative difference of a mean, its loss
    """How far the mean losses of two trainings are from each other."""
    mean = lambda rows, name: statistics.fmean(row[name] for row in rows)
    return max((abs(mean(some, name) / mean(others, name) - 1), name) for name in some[0])


def matmul_rate(dtype: torch.dtype, device: str = "cpu", size: int = 2048) -> float:
    """Multiplications and additions of a square matrix product, each second; the best of ten."""
    x, best = torch.randn(size, size, device=device).to(dtype), float("inf")
    for _ in range(10):
        start = time.perf_counter()
        x @ x
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


# --- what rounding does to the losses

def moved(nets: Networks) -> Networks:
    """A copy whose weights differ in the seventh digit."""
    nets = copy.deepcopy(nets)
    with torch.no_grad():
        for p in [p for part in PARTS for p in getattr(nets, part).parameters()]:
            p.mul_(1 + 1e-7 * torch.randn(p.shape))
    return nets


def rounded_losses(settings: DGNetSettings, start: Networks, batches, steps: int, order: torch.memory_format = torch.preserve_format) -> dict[str, list[dict]]:
    """Losses with all ramps full, on the same batches and with the same dropout: in 32 bits; in 16 bits with the same weights at every step; in 16 bits
    as a training of its own; and in 32 bits from weights that differ in the seventh digit, to see how far rounding alone leads. `order` is that of the 16-bit maps."""
    def runner(nets: Networks, autocast: torch.dtype | None = None) -> Ours:
        nets = copy.deepcopy(nets)
        for module in vars(nets).values() if autocast else ():
            module.to(memory_format=order)
        return Ours(nets, settings, make_optimizers(nets, settings), autocast)

    steppers = {"float32": runner(start), "own way": runner(start, torch.bfloat16), "float32, moved": runner(moved(start))}
    found, exact = {name: [] for name in ("same weights", *steppers)}, steppers["float32"]
    for n, views in zip(range(steps), batches):
        now = {"same weights": runner(Networks(**exact.loop.plain_modules, teacher=exact.step.teacher), torch.bfloat16)} | steppers
        for name, optimizer in now["same weights"].loop.optimizers.items():  # D learns before it judges
            optimizer.load_state_dict(copy.deepcopy(exact.loop.optimizers[name].state_dict()))
        for name, stepper in now.items():
            torch.manual_seed(n)
            found[name].append({key: loss.item() for key, loss in stepper(views, FULL + n).items()})
    return found


def laptop_losses(steps: int) -> dict[str, list[dict]]:
    """At laptop scale, on people."""
    settings, world = dgnet_settings("laptop", warmup_start=0, warmup_slope=1.0), make_world("mannequin-market", "laptop")
    return rounded_losses(settings, build(settings, world.num_train_identities), TwoStreams(world, settings), steps)


def published_losses(steps: int, batch: int, people: bool = True) -> dict[str, list[dict]]:
    """At the published size, on people; or on noise, of which deep maps are nearly constant and batch normalisation enlarges what rounding leaves."""
    settings, classes = dgnet_settings("paper", batch=batch), 751
    batches = TwoStreams(make_world("mannequin-market", "laptop", size=settings.size), settings) if people else (draw(settings, classes, batch, seed=n) for n in range(steps))
    return rounded_losses(settings, build(settings, classes), batches, steps, torch.channels_last)


# --- rows

def row(what: str, baseline, own, unit: str = "", note: str = "", ratio=None) -> dict:
    return dict(what=what, baseline=baseline, ours=own, ratio=baseline / own if ratio is None else ratio, unit=unit, note=note)


def count_rows(batch: int = 2) -> list[dict]:
    """What no noise touches."""
    theirs, mine = count_step(False, batch), count_step(True, batch)
    note = "an image of a batch; ratio: {:.3f} of the baseline's, at most {} wanted"
    return [row("multiplications and additions of a step", theirs.flops / batch / 1e9, mine.flops / batch / 1e9, "GFLOP", note.format(mine.flops / theirs.flops, "0.80")),
            row("activations and gradients of a step, at most", theirs.most_alive / batch / 2**30, mine.most_alive / batch / 2**30, "GiB", "an image of a batch; counted, weights left out"),
            row("operations of a step, optimizers included", float(theirs.operations), float(mine.operations), "",
                f"without views; {mine.operations / theirs.operations:.3f} of the baseline's, at most 0.60 wanted")]


def clock_rows(batch: int, steps: dict[str, int], flops: dict[str, float]) -> list[dict]:
    """Times and memory at the published size."""
    rates = {dtype: matmul_rate(dtype) for dtype in (torch.float32, torch.bfloat16)}
    done, rows = take_turns(batch, steps), []
    base, size = done.pop("baseline"), f"256x128, batch {batch} pairs"
    for name, process in done.items():
        kind = VARIANTS[name][1] or torch.float32
        share = flops["ours"] * batch / process.median("wall") / rates[kind]
        count = f"medians of {len(base.answers)} and {len(process.answers)} steps in turn"
        rows += [row(f"step, {name}, {size}", base.median("cpu"), process.median("cpu"), "CPU s", count),
                 row(f"step, {name}, {size}", base.median("wall"), process.median("wall"), "s", f"{torch.get_num_threads()} threads; {share:.0%} of the {kind} rate of a matrix product, {rates[kind] / 1e9:.0f} GFLOP/s"),
                 row(f"memory, {name}, {size}", base.median("memory"), process.median("memory"), "GiB", f"peak of the process; {process.median('memory') / base.median('memory'):.2f} of the baseline's")]
    return rows


def rounding_rows(found: dict[str, list[dict]], size: str) -> list[dict]:
    """16 bits against 32."""
    exact, rows = found.pop("float32"), []
    for name, what, note in (("same weights", "bfloat16 with the weights of the float32 training at every step", "at most 0.02 wanted"),
                             ("own way", "bfloat16, a training of its own", "from fresh weights, where a training is chaotic: compare the next row"),
                             ("float32, moved", "float32 from weights that differ in the seventh digit", "how far rounding alone leads")):
        (difference, loss), single = far_apart(found[name], exact), max(far_apart([one], [other])[0] for one, other in zip(found[name], exact))
        rows.append(row(f"largest difference of a loss, {size}, {len(exact)} steps: {what}", 0.0, difference, "relative",
                        f"to float32: {loss}; mean over the steps, {single:.2g} at most in a single one; {note}", ratio=""))
    return rows


def gpu_rows(batch: int, flops: float) -> list[dict]:
    """The same on a GPU, if there is one."""
    if not torch.cuda.is_available():
        return [row("on a GPU", "", "", "", "*not run*: no GPU here", ratio="")]
    rows, seconds, rate = [], {}, matmul_rate(torch.bfloat16, "cuda", 8192)
    for variant, compiled in (("baseline", False), ("bfloat16", False), ("bfloat16, all channels-last", False), ("bfloat16, all channels-last", True)):
        name = f"{variant}{', compiled' if compiled else ''}"
        try:
            seconds[name], memory = gpu_step(variant, compiled, batch)
        except Exception as error:
            rows.append(row(f"GPU, {name}", "", "", "", f"did not work: {str(error).splitlines()[0][:120]}", ratio=""))
            continue
        each = seconds[name]
        rows.append(row(f"GPU, {name}, batch {batch} pairs", 1 / seconds["baseline"], 1 / each, "steps/s", f"{torch.cuda.get_device_name()}; {4 * batch / each:,.0f} images/s, peak {memory:.1f} GiB, "
                        f"{flops * batch / each / rate:.0%} of the bfloat16 rate of a matrix product; 100,000 steps in {each * 1e5 / 3600:.1f} h", ratio=seconds["baseline"] / each))
    return rows


def gpu_step(variant: str, compiled: bool, batch: int, warm: int = 10, steps: int = 30) -> tuple[float, float]:  # -> seconds of a step, peak GiB
    """Time a variant on the GPU. D stays uncompiled: its gradient penalty differentiates twice."""
    settings, classes = dgnet_settings("paper"), 751
    torch.cuda.reset_peak_memory_stats()
    step = make_step(variant, settings, classes, "cuda")
    if compiled:
        parts = step.loop.plain_modules
        parts["appearance"].backbone.maps, parts["decoder"].decode = torch.compile(parts["appearance"].backbone.maps), torch.compile(parts["decoder"].decode)
        parts["structure"].compile()
    views = {key: {name: x.cuda() for name, x in stream.items()} for key, stream in draw(settings, classes, batch).items()}
    for n in range(warm + steps):
        if n == warm:
            torch.cuda.synchronize()
            start = time.perf_counter()
        step(views, FULL + n)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps, torch.cuda.max_memory_allocated() / 2**30


def run(quick: bool = False, batch: int | None = None) -> list[dict]:
    """All rows; quick: batch 2, one step each (two, and ten at laptop scale, where losses are compared)."""
    batch = batch or (2 if quick else 8)
    counts = count_rows()
    steps = dict.fromkeys(STEPS, 1) if quick else STEPS
    flops = {"ours": counts[0]["ours"] * 1e9}
    losses = [line for people in (True, False) for line in rounding_rows(published_losses(2 if quick else 5, batch, people), f"256x128, batch {batch}, {'people' if people else 'noise'}")]
    losses += rounding_rows(laptop_losses(10 if quick else 50), "laptop")
    return counts + clock_rows(batch, steps, flops) + losses + gpu_rows(8, flops["ours"])


def main() -> None:
    """Print the rows, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="batch 2, one step each")
    parser.add_argument("--batch", type=int, help="pairs (default: 8)")
    parser.add_argument("--worker", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.batch)
    for found in run(arguments.quick, arguments.batch):
        print(json.dumps(found))


if __name__ == "__main__":
    main()
