"""The teacher: one answer for one question, chosen statistics, soft labels that are probabilities, and errors that say what to do."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dgnb.backbones import build_network
from dgnb.dgnet.teacher import TEACHER_STYLES, Teacher, agreement, label_mass, soft_labels
from dgnb.scales import seed_everything

CLASSES = 7


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    seed_everything("test_dgnet_teacher")


def trained(classes=CLASSES, **options):
    """A small network whose running statistics, scales and classifier are far from their start."""
    network = build_network(classes, "resnet10t", dim=16, truncate=2, **options)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 3)
            module.num_batches_tracked.fill_(123)
    nn.init.normal_(network.head.classifier.weight, std=0.5)
    return network.train()


def people(count=6):
    return torch.randn(count, 3, 32, 16)


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


# the teacher's answer ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_the_same_question_has_the_same_answer_even_after_train(statistics):
    teacher, images = Teacher(trained(), statistics), people()
    parent = nn.ModuleDict({"teacher": teacher}).train()
    first = teacher(images)
    assert torch.equal(first, teacher(images)) and torch.equal(first, parent.eval()["teacher"](images))
    assert not any(m.training for m in teacher.modules() if isinstance(m, nn.Dropout))
    assert torch.allclose(first.sum(1), torch.ones(6)) and (first >= 0).all() and first.dtype == torch.float32


def test_running_statistics_are_the_network_in_evaluation_mode():
    network, images = trained(), people()
    want = [network.eval()(view).softmax(1) for view in (images, images.flip(-1))]
    assert torch.allclose(Teacher(network)(images), sum(want) / 2, atol=1e-6)


def test_batch_statistics_are_those_of_each_view_alone():
    """Re-stated plainly: dropout off, batch normalisation in training mode, image and mirror image in two passes."""
    network, images = trained(dropout=0.0), people()
    reference = copy.deepcopy(network).train()
    want = [reference(view).softmax(1) for view in (images, images.flip(-1))]
    assert torch.allclose(Teacher(network, "batch")(images), sum(want) / 2, atol=1e-6)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_mirror_images_have_the_same_answer(statistics):
    teacher, images = Teacher(trained(), statistics), people()
    assert torch.allclose(teacher(images), teacher(images.flip(-1)), atol=1e-6)


def test_company_matters_with_batch_statistics_only():
    network, images = trained(), people(8)
    alone = {kind: Teacher(network, kind)(images[:4]) - Teacher(network, kind)(images)[:4] for kind in ("running", "batch")}
    assert alone["running"].abs().max() < 1e-5 < 1e-3 < alone["batch"].abs().max()


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_asking_changes_nothing_in_the_teacher(statistics):
    teacher = Teacher(trained(), statistics)
    before = copy.deepcopy(teacher.state_dict())
    for _ in range(3):
        teacher.train()(people())
    teacher(torch.full((4, 3, 32, 16), float("nan")))  # a broken batch does not stay in memory either
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_the_network_that_is_given_stays_as_it_is():
    network = trained()
    Teacher(network, "batch")(people())
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(m.training and m.track_running_stats and m.momentum == 0.1 for m in norms(network))


def test_no_gradient_reaches_weights_or_images():
    teacher, images = Teacher(trained()), people().requires_grad_()
    q = teacher(images)
    assert not q.requires_grad and not any(p.requires_grad for p in teacher.parameters())


def test_state_can_be_saved_and_read():
    one, other = Teacher(trained()), Teacher(trained(), "batch")
    other.load_state_dict(one.state_dict())
    images = people()
    assert torch.equal(Teacher(other.network)(images), one(images))


def test_size_of_the_published_teacher():
    with torch.device("meta"):
        teacher = Teacher(build_network(751, "resnet50", last_stride=2))
    assert sum(p.numel() for p in teacher.parameters()) == 24_943_407 and teacher.num_classes == 751


# soft labels ---------------------------------------------------------------------------------------------------------

@st.composite
def questions(draw):
    """Probabilities of any sharpness, with two donors each, sometimes the same."""
    count, classes = draw(st.integers(1, 6)), draw(st.integers(2, 12))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = torch.randn(count, classes, generator=rng) * draw(st.sampled_from([0.0, 1.0, 10.0, 300.0]))
    donors = torch.randint(classes, (2, count), generator=rng)
    return scores.softmax(1), donors[0], donors[1], torch.randperm(classes, generator=rng)


@settings(max_examples=60, deadline=None)
@given(questions(), st.sampled_from(TEACHER_STYLES))
def test_every_style_gives_probabilities_and_does_not_care_how_classes_are_numbered(question, style):
    p, i, j, order = question
    q = soft_labels(style, p, i, j)
    assert q.shape == p.shape and q.dtype == torch.float32 and (q >= 0).all()
    assert torch.allclose(q.sum(1), torch.ones(len(p)), atol=1e-5)
    place = order.argsort()  # class k becomes number place[k]
    renamed = soft_labels(style, p[:, order], place[i], place[j])
    if style != "pseudo" or (p.topk(2).values.diff().abs() > 0).all():  # ties of the arg max have no name-free answer
        assert torch.allclose(renamed, q[:, order], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(questions())
def test_styles_restated(question):
    p, i, j, _ = question
    rows, classes = torch.arange(len(p)), p.shape[1]
    q = {style: soft_labels(style, p, i, j) for style in TEACHER_STYLES}
    assert torch.equal(q["dynamic"], p)
    assert (q["pseudo"].max(1).values == 1).all() and torch.equal(q["pseudo"].argmax(1), p.argmax(1))
    assert (q["static"][rows, i] == 1).all()
    assert torch.allclose(q["lsro"], torch.tensor(1 / classes))
    for n in rows.tolist():
        kept = {int(i[n]), int(j[n])}
        mass = sum(max(p[n, k].item(), 1e-12) for k in kept)
        for k in range(classes):
            assert q["two-label"][n, k].item() == pytest.approx(max(p[n, k].item(), 1e-12) / mass if k in kept else 0.0, abs=1e-5)


def test_two_labels_that_the_teacher_does_not_see_share_evenly():
    p = torch.tensor([[1.0, 0.0, 0.0]])
    assert soft_labels("two-label", p, torch.tensor([1]), torch.tensor([2])).tolist() == [[0, 0.5, 0.5]]
    half = soft_labels("two-label", p.bfloat16(), torch.tensor([1]), torch.tensor([2]))
    assert half.tolist() == [[0, 0.5, 0.5]]


@settings(max_examples=30, deadline=None)
@given(questions())
def test_gradient_of_the_divergence_is_student_minus_teacher(question):
    q = question[0]
    scores = torch.randn(q.shape, requires_grad=True)
    F.kl_div(scores.log_softmax(1), q, reduction="sum").backward()
    assert torch.allclose(scores.grad, scores.detach().softmax(1) - q, atol=1e-5)


# faults --------------------------------------------------------------------------------------------------------------

def test_a_teacher_of_other_people_is_named():
    teacher = Teacher(trained())
    assert teacher.check(CLASSES) is teacher
    with pytest.raises(ValueError, match="knows 7 people.*has 8.*train the teacher"):
        teacher.check(8)


def test_agreement_tells_the_same_people_in_another_order():
    network, images = trained(), people(20)
    labels = Teacher(network)(images).argmax(1)
    teacher = Teacher(network)
    assert agreement(teacher, images, labels) == 1
    assert agreement(teacher, images, (labels + 1) % CLASSES) == 0
    assert agreement(teacher, images, torch.where(torch.arange(20) < 5, labels, (labels + 1) % CLASSES)) == 0.25


@pytest.mark.parametrize("bad, message", [
    (torch.randn(3, 32, 16), "B x 3 x H x W"), (torch.randn(2, 1, 32, 16), "B x 3 x H x W"), (torch.zeros(2, 3, 32, 16, dtype=torch.uint8), "grey levels")])
def test_images_of_the_wrong_kind_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Teacher(trained())(bad)


def test_one_image_has_no_batch_statistics():
    network = trained()
    assert Teacher(network)(people(1)).shape == (1, CLASSES)
    with pytest.raises(ValueError, match="one image.*statistics=\"running\""):
        Teacher(network, "batch")(people(1))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'running'"):
        Teacher(trained(), "runing")
    with pytest.raises(ValueError, match="Did you mean 'dynamic'"):
        soft_labels("dynamc", torch.full((1, 2), 0.5), torch.tensor([0]), torch.tensor([1]))


@pytest.mark.parametrize("p, i, j, message", [
    (torch.full((2,), 0.5), [0, 1], [1, 0], "B x K"), (torch.full((2, 4), 0.25), [0], [1, 2], "2 images.*1 appearance.*2 structure"),
    (torch.full((2, 4), 0.25), [0, 4], [1, 2], "0..3"), (torch.full((2, 4), 0.25), [0, 1], [1, -1], "0..3")])
@pytest.mark.parametrize("style", TEACHER_STYLES)
def test_wrong_shapes_and_labels_are_refused(style, p, i, j, message):
    with pytest.raises(ValueError, match=message):
        soft_labels(style, p, torch.tensor(i), torch.tensor(j))


def test_lsro_has_the_largest_entropy_and_pseudo_none():
    p = torch.randn(5, 9).softmax(1)
    entropy = {s: torch.special.entr(soft_labels(s, p, torch.arange(5), torch.arange(5) + 1)).sum(1) for s in TEACHER_STYLES}
    assert torch.allclose(entropy["lsro"], torch.tensor(math.log(9))) and (entropy["pseudo"] == 0).all() and (entropy["static"] == 0).all()
    assert (entropy["dynamic"] < entropy["lsro"]).all() and (entropy["two-label"] <= math.log(2) + 1e-6).all()


def test_only_a_re_identification_network_becomes_a_teacher():
    with pytest.raises(ValueError, match="ReIDNetwork.*EmbeddingHead"):
        Teacher(trained().head)


@settings(max_examples=40, deadline=None)
@given(questions(), st.sampled_from(TEACHER_STYLES))
def test_mass_on_donors_and_elsewhere_adds_up(question, style):
    p, i, j, _ = question
    q = soft_labels(style, p, i, j)
    mass = label_mass(q, i, j)
    for n in range(len(p)):
        assert mass[n, 0] == q[n, i[n]] and mass[n, 1] == (0 if i[n] == j[n] else q[n, j[n]])
    others = torch.ones_like(q).scatter(1, i[:, None], 0).scatter(1, j[:, None], 0)
    assert torch.allclose(mass[:, 2], (q * others).sum(1), atol=1e-5)
