"""The ten equations against independent reckonings: a step of separate passes, who learns from what, schedules, start values, faults."""
import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dgnb.backbones import build_network
from dgnb.dgnet.appearance import Appearance, AppearanceEncoder
from dgnb.dgnet.decoder import Decoder
from dgnb.dgnet.discriminator import MultiScaleDiscriminator
from dgnb.dgnet.losses import (GENERATOR_TERMS, RECIPES, TERMS, Networks, Recipe, Views, absolute_error, all_terms, critic_terms, code_terms, divergence,
                               generate, gradient_reach, identification, look_at_generated, loss_weights, parts, real_terms, total)
from dgnb.dgnet.structure import StructureEncoder
from dgnb.dgnet.teacher import Teacher

torch.set_num_threads(1)
quick = settings(max_examples=25, deadline=None)
RELEASED, PAPER, K = RECIPES["released"], RECIPES["paper"], 5
FULL = {kind: {name: schedule(100_000) for name, schedule in loss_weights(kind).items()} for kind in RECIPES}
PAINTER, PRIM, FINE = {"E_s", "G"}, {"E_a", "head 1"}, {"E_a", "head 2"}


def build(seed=0, classes=K, dtype=torch.float64, statistics="running"):
    torch.manual_seed(seed)
    appearance = AppearanceEncoder(classes, "resnet10t", dim=8, truncate=2)
    structure = StructureEncoder(2, 1, (1, 2))
    teacher = Teacher(build_network(classes, "resnet10t", dim=8, truncate=2), statistics)
    nets = Networks(appearance, structure, Decoder(appearance.code_size, structure.channels, 1, 8, "direct"), MultiScaleDiscriminator(4, 1), teacher)
    for part in (appearance, structure, nets.decoder, nets.discriminator, teacher):
        part.to(dtype)
    for module in (appearance.prim.classifier, appearance.fine.classifier, teacher.network.head.classifier):
        nn.init.normal_(module.weight, std=0.3)  # opinions, so that losses differ
    return nets


def photographs(seed=1, count=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    pair = lambda: tuple(torch.randn(count, 3, 32, 24, generator=g, dtype=dtype) for _ in range(2))
    return Views(pair(), pair(), pair(), pair(), tuple(torch.randint(K, (count,), generator=g) for _ in range(2)))


NETS, VIEWS = build(), photographs()


# --- the three measures

@quick
@given(st.integers(1, 5), st.integers(2, 9), st.integers(0, 999))
def test_divergence_is_kl(batch, classes, seed):
    g = torch.Generator().manual_seed(seed)
    scores, q = torch.randn(batch, classes, generator=g, dtype=torch.float64), torch.rand(batch, classes, generator=g, dtype=torch.float64).softmax(1)
    p = scores.softmax(1)
    assert divergence(scores, q).item() == pytest.approx((-(q * (p / q).log()).sum(1)).mean().item(), abs=1e-9)
    assert divergence(scores, q) >= 0 and divergence(q.log(), q).item() == pytest.approx(0, abs=1e-9)


@quick
@given(st.integers(2, 9), st.integers(0, 999))
def test_one_hot_divergence_is_cross_entropy(classes, seed):
    g = torch.Generator().manual_seed(seed)
    scores, label = torch.randn(4, classes, generator=g), torch.randint(classes, (4,), generator=g)
    assert divergence(scores, F.one_hot(label, classes)).item() == pytest.approx(identification(scores, label).item(), rel=1e-5)


def test_measures_lift_half_precision_and_keep_double():
    x = torch.rand(2, 3)
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        losses = absolute_error(x.to(dtype), x.to(dtype)), identification(x.to(dtype), torch.tensor([0, 1])), divergence(x.to(dtype), x.softmax(1).to(dtype))
        assert all(loss.dtype == wanted for loss in losses)


# --- one iteration of the released code, written pass by pass

def reference(nets, views, weights, train_structure):
    """The released code's passes one by one: frozen deep copies, detached images. Terms, and the nets to read gradients from."""
    nets = copy.deepcopy(nets)
    a_images, (ya, yb) = views.image, views.label
    codes = [nets.appearance.look(x).code.detach() for x in (*views.image, *views.positive)]
    s_a, s_b = (nets.structure(x) for x in a_images)
    paint = nets.decoder
    x_ba, x_ab = paint(s_b, codes[0]), paint(s_a, codes[1])
    l1 = lambda found, wanted: (found - wanted.detach()).abs().mean()
    both = lambda one, two: one + two
    terms = {"img1": both(l1(paint(s_a, codes[0]), a_images[0]), l1(paint(s_b, codes[1]), a_images[1])),
             "img2": both(l1(paint(s_a, codes[2]), a_images[0]), l1(paint(s_b, codes[3]), a_images[1]))}
    erased = [nets.appearance(x) for x in (*views.erased, *views.positive_erased)]
    ce = F.cross_entropy
    terms |= {"id": ce(erased[0][0], ya) + ce(erased[1][0], yb), "id_fine": ce(erased[0][1], ya) + ce(erased[1][1], yb),
              "positive": ce(erased[2][0], ya) + ce(erased[3][0], yb)}
    if not train_structure:
        eye = copy.deepcopy(nets.structure).requires_grad_(False)
        again_b, again_a = eye(x_ba), eye(x_ab)
    else:
        again_b, again_a = nets.structure(x_ba.detach()), nets.structure(x_ab.detach())
    terms["code2"] = l1(again_b, s_b) + l1(again_a, s_a)
    judge = copy.deepcopy(nets.appearance).requires_grad_(False)
    judge.prim.dropout.eval()
    seen_ba, seen_ab = judge.look(x_ba), judge.look(x_ab)
    terms["code1"] = l1(seen_ba.code.detach(), codes[0]) + l1(seen_ab.code.detach(), codes[1])
    terms["id_c"] = ce(judge.prim.classifier(seen_ba.prim), ya) + ce(judge.prim.classifier(seen_ab.prim), yb)
    terms["cycle"] = l1(paint(again_a, seen_ba.code.detach()), a_images[0]) + l1(paint(again_b, seen_ab.code.detach()), a_images[1])
    student = [nets.appearance(x.detach()) for x in (x_ba, x_ab)]
    q = [((nets.teacher.network(x).softmax(1) + nets.teacher.network(x.flip(-1)).softmax(1)) / 2).detach() for x in (x_ba, x_ab)]
    kl = lambda scores, q: (q * (q.log() - scores.log_softmax(1))).sum(1).mean()
    terms["prim"] = kl(student[0][0], q[0]) + kl(student[1][0], q[1])
    terms["fine"] = ce(student[0][1], yb) + ce(student[1][1], ya)
    critic = copy.deepcopy(nets.discriminator).requires_grad_(False)
    terms["adv"] = sum(2 * ((v - 1) ** 2).mean() for x in (x_ba, x_ab) for v in critic(x))
    sum(weights[name] * loss for name, loss in terms.items() if loss.requires_grad).backward()
    return terms, nets


def ours(nets, views, weights, train_structure, share):
    """The same with our functions, by the shared pass and `inputs=`, or by separate passes and one backward."""
    nets = copy.deepcopy(nets)
    terms = all_terms(nets, views, generate(nets, views, RELEASED), weights, RELEASED, train_structure, share)
    if share:
        total(terms, weights, [name for name in TERMS if name not in GENERATOR_TERMS]).backward(inputs=list(nets.appearance.parameters()), retain_graph=True)
        total(terms, weights, GENERATOR_TERMS).backward(inputs=[*nets.structure.parameters(), *nets.decoder.parameters()])
    else:
        total(terms, weights).backward()
    return terms, nets


def state(nets):
    """Gradients and batch statistics of all that learns."""
    modules = {"E_a": nets.appearance, "E_s": nets.structure, "G": nets.decoder}
    grads = {f"{part}.{name}": p.grad for part, module in modules.items() for name, p in module.named_parameters()}
    return grads, dict(nets.appearance.named_buffers())


@pytest.mark.parametrize("train_structure", [True, False])
@pytest.mark.parametrize("share", [True, False])
def test_released_step_equals_the_passes_one_by_one(train_structure, share):
    """Every loss, every gradient, every running statistic and count, in 64 bits."""
    nets = build()
    nets.appearance.prim.dropout.p = nets.appearance.fine.dropout.p = 0.0  # the two draw in another order
    wanted, theirs = reference(nets, VIEWS, FULL["released"], train_structure)
    found, mine = ours(nets, VIEWS, FULL["released"], train_structure, share)
    assert set(found) == set(wanted) == set(TERMS)
    for name in TERMS:
        assert found[name].item() == pytest.approx(wanted[name].item(), rel=1e-5), name
    (grads, buffers), (their_grads, their_buffers) = state(mine), state(theirs)
    for name, grad in grads.items():
        assert (grad is None) == (their_grads[name] is None), name
        if grad is not None:
            scale = their_grads[name].abs().max().item()
            assert (grad - their_grads[name]).abs().max().item() <= 1e-5 * scale + 1e-7, name
    for name, buffer in buffers.items():
        assert torch.allclose(buffer, their_buffers[name], rtol=1e-6, atol=1e-8), name


def test_sharing_changes_nothing_with_dropout():
    for coin in (True, False):
        torch.manual_seed(7)
        _, one = ours(NETS, VIEWS, FULL["released"], coin, True)
        torch.manual_seed(7)
        _, two = ours(NETS, VIEWS, FULL["released"], coin, False)
        for (name, a), b in zip(state(one)[0].items(), state(two)[0].values()):
            assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, rtol=1e-6, atol=1e-9)), name
        assert all(torch.equal(a, b) for a, b in zip(state(one)[1].values(), state(two)[1].values()))


def test_before_the_warm_up_paintings_leave_no_trace():
    """Without the feed, nothing of a painting is remembered, and head 2 learns nothing."""
    early = {name: schedule(100) for name, schedule in loss_weights("released").items()}
    nets, plain = copy.deepcopy(NETS), copy.deepcopy(NETS)
    made = generate(nets, VIEWS, RELEASED)
    terms = all_terms(nets, VIEWS, made, early, RELEASED)
    assert not {"prim", "fine", "cycle", "code2", "id_fine"} & set(terms)
    generate(plain, VIEWS, RELEASED)
    real_terms(plain, VIEWS, early, RELEASED)
    assert all(torch.equal(a, b) for a, b in zip(state(nets)[1].values(), state(plain)[1].values()))
    total(terms, early).backward()
    assert all(p.grad is None or not p.grad.any() for p in nets.appearance.fine.parameters())


def test_heads_remember_clean_images_too():
    """As in the released code, whose first pass goes through the heads: 4 clean, 4 erased, 2 painted batches are counted."""
    nets = copy.deepcopy(NETS)
    all_terms(nets, VIEWS, generate(nets, VIEWS, RELEASED), FULL["released"], RELEASED)
    counts = {int(buffer) for name, buffer in nets.appearance.named_buffers() if name.endswith("num_batches_tracked")}
    assert counts == {10}


# --- the game

def test_critic_terms_one_image_at_a_time():
    made = generate(copy.deepcopy(NETS), VIEWS, RELEASED)
    found, D = critic_terms(NETS, VIEWS, made, RELEASED), NETS.discriminator
    real, fake = torch.cat(VIEWS.image), made.swapped.detach()
    n = len(VIEWS.image[0])
    gan = sum(((D(r)[k] - 1) ** 2).mean() + (D(f)[k] ** 2).mean() for r, f in zip(real.split(n), fake.split(n)) for k in range(3))
    lengths = []
    for image in real:
        one = image[None].clone().requires_grad_()
        lengths += [torch.autograd.grad(D(one)[k].sum(), one)[0].square().sum().item() for k in range(3)]
    assert found["d"].item() == pytest.approx(gan.item(), rel=1e-9) and found["r1"].item() == pytest.approx(sum(lengths) / n, rel=1e-9)


def test_critic_step_leaves_the_painter_alone():
    nets = copy.deepcopy(NETS)
    made = generate(nets, VIEWS, RELEASED)
    sum(critic_terms(nets, VIEWS, made, RELEASED).values()).backward()
    assert all(p.grad is None for part in (nets.structure, nets.decoder, nets.appearance) for p in part.parameters())
    assert all(p.grad is not None for p in nets.discriminator.parameters())


# --- who learns from what

def arrows(recipe, kind, coin=True, nets=NETS, weights=None):
    reach = gradient_reach(nets, VIEWS, weights or FULL[kind], recipe, coin)
    return {name: {part for part, length in by_part.items() if length > 0} for name, by_part in reach.items()}


@pytest.mark.parametrize("coin", [True, False])
def test_reach_of_the_released_recipe(coin):
    assert arrows(RELEASED, "released", coin) == {
        "img1": PAINTER, "img2": PAINTER, "code1": set(), "code2": {"E_s"} if coin else PAINTER, "cycle": PAINTER, "adv": PAINTER, "id_c": PAINTER,
        "id": PRIM, "id_fine": FINE, "positive": PRIM, "prim": PRIM, "fine": FINE}


def test_reach_of_the_paper():
    everything = PAINTER | {"E_a"}
    assert arrows(PAPER, "paper") == {"img1": everything, "img2": everything, "code1": everything, "code2": everything, "adv": everything, "id": PRIM,
                                      "id_fine": FINE, "id_c": everything | PRIM, "prim": everything | PRIM, "fine": everything | FINE}


@pytest.mark.parametrize("change, term, reached", [
    ({"code1": "frozen"}, "code1", PAINTER), ({"code1": "live"}, "code1", PAINTER | {"E_a"}), ({"judge": "live"}, "id_c", PAINTER | PRIM),
    ({"feed": "attached"}, "prim", PAINTER | PRIM), ({"feed": "attached"}, "fine", PAINTER | FINE), ({"reencode": "live"}, "code2", PAINTER),
    ({"detach_code": False}, "img2", PAINTER | {"E_a"}), ({"detach_code": False}, "id_c", PAINTER | {"E_a"}), ({"detach_code": False}, "prim", PRIM),
    ({"judge": "live", "code1": "frozen"}, "code1", PAINTER), ({"judge": "live", "code1": "live", "feed": "detached"}, "fine", FINE)])
def test_switches_do_what_they_say(change, term, reached):
    assert arrows(replace(RELEASED, **change), "released")[term] == reached


@settings(max_examples=12, deadline=None)
@given(st.booleans(), st.sampled_from(["monitor", "frozen", "live"]), st.sampled_from(["frozen", "live"]), st.sampled_from(["detached", "attached", "off"]),
       st.sampled_from(["coin", "live"]), st.booleans(), st.booleans())
def test_every_combination_of_switches(detach, code1, judge, feed, reencode, coin, together):
    """The rules of the switches, for all combinations: who may learn from the codes, the judge and the feed."""
    recipe = Recipe(detach_code=detach, code1=code1, judge=judge, feed=feed, reencode=reencode, together=together)
    found = arrows(recipe, "released", coin)
    by_code = set() if detach else {"E_a"}
    assert found["img1"] == found["adv"] == PAINTER | by_code
    assert found["code1"] == {"monitor": set(), "frozen": PAINTER | by_code, "live": PAINTER | {"E_a"}}[code1]
    assert found["id_c"] == PAINTER | (PRIM if judge == "live" else by_code)
    if feed == "off":
        assert "prim" not in found and "fine" not in found
    else:
        way = PAINTER | by_code if feed == "attached" else set()
        assert found["prim"] == PRIM | way and found["fine"] == FINE | way
    assert found["code2"] == ({"E_s"} if reencode == "coin" and coin else PAINTER | by_code)
    assert not any("D" in reached for reached in found.values())
    assert recipe.decoupled == (not any("E_a" in reached and "G" in reached for reached in found.values()))


def test_without_identity_the_judge_is_silent():
    assert "id_c" not in arrows(replace(RELEASED, identity=False), "released")


def test_together_differs_only_by_batch_statistics():
    nets = copy.deepcopy(NETS)
    nets.appearance.eval()
    one, two = (all_terms(nets, VIEWS, generate(nets, VIEWS, r), FULL["released"], r) for r in (RELEASED, replace(RELEASED, together=True)))
    assert all(one[name].item() == pytest.approx(two[name].item(), rel=1e-6) for name in TERMS)
    trained = all_terms(NETS, VIEWS, generate(NETS, VIEWS, RELEASED), FULL["released"], replace(RELEASED, together=True))
    assert trained["id"].item() != one["id"].item()


def test_the_target_of_equation_5_stands_still():
    """released: pulling the re-encoded structure towards s_j never moves s_j; with a perfect painter the coin's gradient for s is zero."""
    for recipe, moves in ((RELEASED, False), (replace(RELEASED, reencode="live"), True)):
        nets = copy.deepcopy(NETS)
        made = generate(nets, VIEWS, recipe)
        leaf = made.structure.detach().requires_grad_()
        looks = look_at_generated(nets, made.swapped, recipe, False)
        again = code_terms(nets, VIEWS, replace(made, structure=leaf, swapped=made.swapped.detach()), looks, FULL["released"], recipe)["code2"]
        slope = torch.autograd.grad(again, leaf, allow_unused=True)[0]
        assert (slope is not None and bool(slope.any())) == moves


class Perfect(nn.Module):
    """E_a, E_s and G of pictures whose first channel is structure and whose others are clothes."""
    def look(self, x):
        code = x[:, 1:].flatten(1)
        return Appearance(code, code, code)

    def styles(self, code):
        return code

    def prepare(self, structure):
        return structure

    def decode(self, structure, code, prepared=None):
        return torch.cat([structure, code.view(len(code), 2, *structure.shape[2:])], 1)

    def forward(self, x, code=None):
        return x[:, :1] if code is None else self.decode(x, code)


def test_swaps_and_cycle_pair_the_right_people():
    ideal = Perfect()
    nets, (a, b), (pa, pb) = Networks(ideal, ideal, ideal), VIEWS.image, VIEWS.positive
    made = generate(nets, VIEWS, RELEASED)
    wear = lambda structure, clothes: torch.cat([structure[:, :1], clothes[:, 1:]], 1)
    assert torch.equal(made.swapped, torch.cat([wear(b, a), wear(a, b)])) and torch.equal(made.rebuilt, torch.cat([a, b]))
    assert torch.equal(made.from_positive, torch.cat([wear(a, pa), wear(b, pb)]))
    found = code_terms(nets, VIEWS, made, look_at_generated(nets, made.swapped, RELEASED, False), FULL["released"] | {"id_c": 0}, RELEASED)
    assert {name: loss.item() for name, loss in found.items()} == {"code1": 0, "code2": 0, "cycle": 0}


# --- the sum and its weights

@pytest.mark.parametrize("at, prim, fine, code, cycle", [(0, 0, 0, 0, 0), (30_000, 0, 0, 0, 0), (30_001, 0.0005, 0.0001, 0.0005, 0.0005), (32_000, 1, 0.2, 1, 1),
                                                         (34_000, 2, 0.4, 1, 2), (100_000, 2, 0.4, 1, 2)])
def test_published_weights(at, prim, fine, code, cycle):
    w = {name: schedule(at) for name, schedule in loss_weights("released").items()}
    wanted = {"img1": 5, "img2": 5, "adv": 1, "id": 1, "positive": 1, "id_c": 0.5, "prim": prim, "fine": fine, "id_fine": fine, "code1": code, "code2": code, "cycle": cycle}
    assert w == pytest.approx(wanted) and tuple(w) == TERMS
    w = {name: schedule(at) for name, schedule in loss_weights("paper").items()}
    assert w == pytest.approx(wanted | {"code1": 1, "code2": 1, "cycle": 0, "id_fine": 1, "positive": 0})


@quick
@given(st.integers(0, 1000), st.floats(1e-4, 10), st.floats(0, 5), st.floats(0, 2), st.sampled_from(sorted(RECIPES)))
def test_weights_for_any_settings(start, slope, prim, alpha, kind):
    schedules = loss_weights(kind, start=start, slope=slope, prim=prim, alpha=alpha)
    assert schedules["prim"](start) == 0 and schedules["prim"](10**7) == pytest.approx(prim)
    for n in (0, start, start + 1, start + 100):
        assert schedules["fine"](n) == pytest.approx(alpha * schedules["prim"](n)) and 0 <= schedules["prim"](n) <= prim + 1e-9
        assert kind == "paper" or schedules["id_fine"](n) == schedules["fine"](n)


def test_total_is_equation_10():
    terms = {name: torch.tensor(float(n + 1), requires_grad=True) for n, name in enumerate(TERMS)}
    terms["code1"] = terms["code1"].detach()
    w = FULL["released"]
    assert total(terms, w).item() == pytest.approx(sum(w[name] * (n + 1) for n, name in enumerate(TERMS) if name != "code1"))
    assert total(terms, w, ("img1", "prim")).item() == pytest.approx(5 * 1 + 2 * 11)


def test_start_values_at_751_people():
    """Each cross entropy ln K; 13.24, 13.24 and 6.62 in the released log's weighted sums; 12 and 6 for the game."""
    torch.manual_seed(0)
    appearance, structure = AppearanceEncoder(751, "resnet10t", dim=8, truncate=2), StructureEncoder(2, 1, (1, 2))
    nets = Networks(appearance, structure, Decoder(appearance.code_size, structure.channels, 1, 8, "direct"), MultiScaleDiscriminator(4, 1),
                    Teacher(build_network(751, "resnet10t", dim=8, truncate=2)))
    views = photographs(dtype=torch.float32)
    made = generate(nets, views, RELEASED)
    terms = all_terms(nets, views, made, FULL["released"], RELEASED)
    for name in ("id", "id_fine", "positive", "id_c", "fine"):
        assert terms[name].item() == pytest.approx(2 * math.log(751), abs=0.05) == pytest.approx(13.24, abs=0.06)
    assert 0.5 * terms["id_c"].item() == pytest.approx(6.62, abs=0.03) and terms["adv"].item() == pytest.approx(12, abs=0.1)
    assert critic_terms(nets, views, made, RELEASED)["d"].item() == pytest.approx(6, abs=0.1)
    assert 0 <= terms["prim"].item() < 0.1  # two flat opinions


def test_labels_go_to_the_right_listeners():
    """A student that says what each term wants to hear has a loss of zero there, and only there."""
    (a, b) = VIEWS.label
    hot = lambda label: 50.0 * F.one_hot(label, K).double()
    clothes, body = torch.cat([a, b]), torch.cat([b, a])
    nets = copy.deepcopy(NETS)
    for head in (nets.appearance.prim, nets.appearance.fine):
        head.dropout, head.classifier = nn.Identity(), nn.Linear(K, K, dtype=torch.float64)
        nn.init.eye_(head.classifier.weight)
        nn.init.zeros_(head.classifier.bias)
    from dgnb.dgnet.losses import feed_terms
    made = generate(nets, VIEWS, RELEASED)
    recipe = replace(RELEASED, teacher_style="static")
    right = feed_terms(nets, VIEWS, made, Appearance(None, hot(clothes), hot(body)), recipe)
    wrong = feed_terms(nets, VIEWS, made, Appearance(None, hot(body), hot(clothes)), recipe)
    assert max(loss.item() for loss in right.values()) < 1e-6 < 1 < min(loss.item() for loss in wrong.values())


# --- faults

def test_teachers_that_do_not_fit():
    made = generate(copy.deepcopy(NETS), VIEWS, RELEASED)
    with pytest.raises(ValueError, match="needs a teacher"):
        all_terms(replace(NETS, teacher=None), VIEWS, made, FULL["released"], RELEASED)
    with pytest.raises(ValueError, match="knows 4 people"):
        replace(NETS, teacher=Teacher(build_network(4, "resnet10t", dim=8, truncate=2)))
    with pytest.raises(ValueError, match="'running' statistics"):
        all_terms(NETS, VIEWS, made, FULL["released"], replace(RELEASED, teacher_statistics="batch"))


@pytest.mark.parametrize("style, needed", [("dynamic", True), ("pseudo", True), ("two-label", True), ("static", False), ("lsro", False)])
def test_styles_that_need_no_teacher(style, needed):
    recipe = replace(RELEASED, teacher_style=style)
    assert recipe.needs_teacher == needed and not replace(recipe, feed="off").needs_teacher
    nets = replace(copy.deepcopy(NETS), teacher=None)
    made = generate(nets, VIEWS, RELEASED)
    if needed:
        with pytest.raises(ValueError):
            all_terms(nets, VIEWS, made, FULL["released"], recipe)
    else:
        assert all_terms(nets, VIEWS, made, FULL["released"], recipe)["prim"] > 0


def test_teacher_with_batch_statistics_looks_at_each_direction_alone():
    nets, recipe = build(statistics="batch"), replace(RELEASED, teacher_statistics="batch", teacher_style="dynamic")
    made = generate(nets, VIEWS, recipe)
    from dgnb.dgnet.losses import teacher_target
    q = teacher_target(nets, made.swapped, torch.cat(VIEWS.label), torch.cat(VIEWS.label[::-1]), recipe)
    assert torch.equal(q, torch.cat([nets.teacher(x) for x in made.swapped.detach().chunk(2)])) and not q.requires_grad


@pytest.mark.parametrize("action, words", [
    (lambda: absolute_error(torch.zeros(2, 3), torch.zeros(2, 1)), "same shape"), (lambda: Recipe(feed="detach"), "detached"), (lambda: Recipe(gan="wgan"), "gan"),
    (lambda: loss_weights("code"), "released"), (lambda: loss_weights("paper", slope=0.0), "slope"), (lambda: loss_weights("paper", prim=-1.0), "negative"),
    (lambda: loss_weights("paper", prim=math.nan), "finite"), (lambda: loss_weights("released", cycle=math.inf), "finite"),
    (lambda: identification(torch.zeros(2, 5), torch.tensor([0, 5])), "labels must be 0..4"), (lambda: replace(VIEWS, image=(VIEWS.image[0], VIEWS.image[1][:2])), "incomplete")])
def test_clear_errors(action, words):
    with pytest.raises(ValueError, match=words):
        action()


def test_parts_are_all_that_learns():
    everything = {id(p) for part in (NETS.appearance, NETS.structure, NETS.decoder, NETS.discriminator) for p in part.parameters()}
    assert {id(p) for part in parts(NETS).values() for p in part.parameters()} == everything
