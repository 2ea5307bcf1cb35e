"""What VRSTC leaves open is decided somewhere, and the help there says that it is not in the paper."""
from __future__ import annotations

import inspect
import io
import tokenize
from dataclasses import fields

import pytest

from dgnb.vrstc import attention, critics, holes, localizer, repairing, spatial, step, video_reid
from dgnb.vrstc.step import STCnetSettings
from dgnb.vrstc.video_training import VideoSettings

PHRASE = "not in the paper"
OPEN = {  # settings whose default no sentence of the paper gives
    STCnetSettings: ["channels", "dilations", "mask_channel", "fill", "attention_scale", "attention_values", "critic_channels", "critic_norm", "local_view", "two_bands", "flip",
                     "reach", "among", "batch", "iterations", "clip", "decay_at", "betas", "only_l1"],
    VideoSettings: ["scaled", "truncate", "weights", "stride", "batch", "epochs", "chunk", "places"],
}
GIVEN = {  # settings that the paper gives, or that say which of its own networks, sets and rules are meant
    STCnetSettings: ["height", "width", "second", "judges", "guided", "clean", "rule", "tau", "lr", "lambda1", "lambda2", "guider_scale"],
    VideoSettings: ["backbone", "last_stride", "height", "width", "frames", "augmentation", "lr", "weight_decay", "decay_every", "decay_by"],
}
ARGUMENTS = [  # of networks and of the localizer
    (spatial.Encoder, ["inputs", "width", "dilations", "norm"]), (spatial.Decoder, ["width", "norm", "kernel", "last"]),
    (spatial.SpatialStructureGenerator, ["width", "dilations", "mask_channel", "fill", "norm", "kernel", "last"]), (spatial.fill_hole, ["fill"]),
    (attention.TemporalAttentionGenerator, ["width", "dilations", "scale", "values", "share", "alike", "norm", "kernel", "last", "size"]),
    (attention.TemporalAttention, ["scale", "size", "values"]), (critics.Discriminator, ["width", "norm"]), (critics.local_view, ["kind", "size"]),
    (holes.Holes, ["two_bands", "flip", "reach", "among"]), (video_reid.NonLocalBlock, ["pool", "scaled"]), (video_reid.VideoBackbone, ["pool", "scaled"]),
    (video_reid.VideoReIDNetwork, ["pool", "scaled", "truncate", "weights"]), (localizer.OcclusionLocalizer, ["reading", "width"]), (localizer.Rule, ["kind"]),
    (localizer.band_features, ["width"]), (localizer.tracklet_centre, ["centre"])]
FIXED = [spatial.Encoder, spatial.Decoder, spatial._activated, attention.patch_similarity, attention._inverse_norms, attention.TemporalAttentionGenerator.features, critics.Discriminator,
         critics.fooling_loss, critics.IDGuider.forward, step.hole_l1, step.crop_size, step.StepSTCnet, holes.draw_bands, repairing.plan_repairs, repairing.paste_bands]


def helps(owner) -> dict[str, str]:
    """Name -> the comment on its line, of the fields or arguments of a class (with what it inherits) or a function."""
    found: dict[str, str] = {}
    for part in [c for c in inspect.getmro(owner) if c.__module__.startswith("dgnb")] if inspect.isclass(owner) else [owner]:
        first: dict[int, str] = {}
        for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc("\n" + inspect.getsource(part))).readline):
            line = token.start[0]
            if token.type == tokenize.NAME:
                first.setdefault(line, token.string)
            if token.type == tokenize.COMMENT and line in first:
                found.setdefault(first[line], token.string.lstrip("# "))
    return found


@pytest.mark.parametrize("settings", OPEN, ids=lambda s: s.__name__)
def test_every_setting_is_the_papers_or_says_that_it_is_not(settings):
    said = helps(settings)
    assert sorted(OPEN[settings] + GIVEN[settings]) == sorted(field.name for field in fields(settings)), "a new setting belongs into one of the two lists"
    assert not [name for name in OPEN[settings] if PHRASE not in said[name]]


@pytest.mark.parametrize("owner,names", ARGUMENTS, ids=lambda x: getattr(x, "__name__", ""))
def test_arguments_that_the_paper_does_not_give_say_so(owner, names):
    said = helps(owner)
    assert set(names) <= set(inspect.signature(owner).parameters)
    assert not [name for name in names if PHRASE not in said[name]]


@pytest.mark.parametrize("part", FIXED, ids=lambda part: part.__qualname__)
def test_what_is_fixed_says_so_in_its_first_line(part):
    assert PHRASE in inspect.getdoc(part).splitlines()[0]


def test_a_help_is_read_as_it_stands():
    assert helps(critics.Discriminator)["width"] == "channels of the first convolution (not in the paper)"
    assert helps(STCnetSettings)["lr"] == "of Adam, generators and discriminators" and helps(STCnetSettings)["channels"].endswith(PHRASE)
