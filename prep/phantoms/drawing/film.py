"""Phantom chest films: a drawn thorax and the findings in it.

What a film shows is a list of `Finding`; `wording.py` words the same list, so that picture, boxes,
report and labels of a phantom always agree.

Legend: H rows, W columns. Coordinates of the thorax: u to the right and v down, 0 in the middle,
1 the shorter side of the film. On a frontal film the patient's right side is on the left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ....files import digest_of

Floats = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]  # x, y, width, height in pixels

LATERAL = "LATERAL"
SIDES = {"right": -1.0, "left": 1.0}
OPACITIES = ("Pneumonia", "Lung Opacity")
KINDS = {  # finding -> how often it is drawn among abnormal films
    "Pneumonia": 0.28,
    "Lung Opacity": 0.14,
    "Pleural Effusion": 0.20,
    "Cardiomegaly": 0.16,
    "Pneumothorax": 0.11,
    "Edema": 0.11,
}
NORMAL_SHARE = 0.38
SECOND_SHARE = 0.2  # abnormal films with a second finding
LUNG_TOP, LUNG_BASE = -0.37, 0.27
WHITE, BLACK = 3700.0, 150.0  # grey levels of full and no absorption, of 12 bits


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding by its CheXpert name; side and zone are empty where it has none."""

    name: str
    side: str = ""
    zone: str = ""


@dataclass(frozen=True, kw_only=True)
class Film:
    """A drawn film: 12-bit grey levels, bright is absorbing; one box an opacity; free air."""

    pixels: npt.NDArray[np.uint16]  # [H, W]
    boxes: tuple[Box, ...]
    air: npt.NDArray[np.bool_]  # [H, W], where a pneumothorax is shown


@dataclass(frozen=True, kw_only=True)
class _Thorax:
    """Parts of a thorax, each [H, W]: soft masks (0 to 1), the lungs without the heart.

    `depth` is the distance below the chest wall, `bones` what bones add to the absorption.
    """

    u: Floats
    v: Floats
    body: Floats
    lungs: dict[str, Floats]
    depth: dict[str, Floats]
    bones: Floats


def draws(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return the Philox stream of a seed and a purpose; equal arguments, equal numbers."""
    key = digest_of(["phantom", seed, *purpose])
    return np.random.Generator(np.random.Philox(key=int(key[:32], 16)))


def draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Draw what a film shows: nothing in 38 % of films, else one or two findings."""
    if rng.random() < NORMAL_SHARE:
        return ()
    count = 2 if rng.random() < SECOND_SHARE else 1
    names = rng.choice(list(KINDS), size=count, replace=False, p=list(KINDS.values()))
    if set(OPACITIES) <= set(names):  # one opacity is not worded twice
        names = names[:1]
    first, *rest = (place(str(name), rng) for name in sorted(names))
    return (first, *(_apart(first, second) for second in rest))


def _apart(first: Finding, second: Finding) -> Finding:
    """Move the second finding to where the first does not hide it."""
    if second.side and first.name == "Cardiomegaly":
        return replace(second, side="right")
    if second.side and second.side == first.side:
        return replace(second, side="left" if first.side == "right" else "right")
    return second


def place(name: str, rng: np.random.Generator) -> Finding:
    """Return a finding of this name with a side and a zone drawn, where it has them."""
    side, zone = str(rng.choice(["right", "left"])), str(rng.choice(["upper", "lower"]))
    if name in OPACITIES:
        return Finding(name=name, side=side, zone=zone)
    if name in ("Pleural Effusion", "Pneumothorax"):
        return Finding(name=name, side=side)
    return Finding(name=name)


def draw_film(
    findings: tuple[Finding, ...], *, height: int, width: int, view: str, seed: int, name: str
) -> Film:
    """Draw a film; `seed` and `name` decide anatomy and noise, whatever the findings are.

    A box encloses its opacity exactly: outside the boxes, a film with opacities alone equals the
    same film without them.
    """
    rng = draws(seed, "anatomy", name)
    u_HW, v_HW = _posed(_grid(height, width), rng)
    large = any(finding.name == "Cardiomegaly" for finding in findings)
    build = _lateral if view == LATERAL else _frontal
    thorax = build(u_HW, v_HW, rng.uniform(-1, 1, 6), large=large)
    texture_HW = _texture(height, width, rng)
    gain, gamma = rng.uniform(0.94, 1.04), rng.uniform(0.9, 1.12)
    noise_HW = rng.standard_normal((height, width)) * 0.012

    image_HW = _show_normal(thorax, texture_HW, findings, view=view)
    boxes = []
    for number, finding in enumerate(findings):
        jitter = draws(seed, "finding", name, number)
        box = _show(image_HW, thorax, finding, jitter, view=view)
        boxes += [box] if box is not None else []
    image_HW = gain * np.clip(image_HW + noise_HW, 0, 1) ** gamma
    pixels_HW = BLACK + (WHITE - BLACK) * np.clip(image_HW, 0, 1)
    air_HW = np.zeros((height, width), bool)
    for finding in findings:
        if finding.name == "Pneumothorax" and view != LATERAL:
            air_HW |= _pleura(thorax, finding.side)[0] >= 0.5
    return Film(pixels=pixels_HW.astype(np.uint16), boxes=tuple(boxes), air=air_HW)


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> tuple[Floats, Floats]:
    """Return u and v of every pixel centre."""
    short = min(height, width)
    u_W = (np.arange(width) + 0.5 - width / 2) / short
    v_H = (np.arange(height) + 0.5 - height / 2) / short
    u_HW, v_HW = np.meshgrid(u_W, v_H)
    return u_HW, v_HW


def _posed(grid: tuple[Floats, Floats], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Turn, shift and scale the patient a little."""
    u_HW, v_HW = grid
    angle, scale = np.radians(rng.uniform(-3, 3)), rng.uniform(0.93, 1.05)
    du, dv = rng.uniform(-0.03, 0.03, 2)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    return cos * u_HW + sin * v_HW - du, cos * v_HW - sin * u_HW - dv


def _soft(distance_HW: Floats, edge: float = 0.02) -> Floats:
    """Return a mask from a signed distance: 1 inside, 0 outside, a ramp of width `edge`."""
    return np.minimum(np.maximum(distance_HW / edge + 0.5, 0.0), 1.0)


def _ellipse(u_HW: Floats, v_HW: Floats, u: float, v: float, ru: float, rv: float) -> Floats:
    """Return the relative distance from the rim of an ellipse: 1 in its middle, 0 on it."""
    return 1 - np.sqrt(((u_HW - u) / ru) ** 2 + ((v_HW - v) / rv) ** 2)


def _glow(u_HW: Floats, v_HW: Floats, u: float, v: float, radius: float) -> Floats:
    """Return a round Gaussian spot."""
    return np.exp(-((u_HW - u) ** 2 + (v_HW - v) ** 2) / (2 * radius**2))


def _texture(height: int, width: int, rng: np.random.Generator) -> Floats:
    """Return the vessels' mottle: smooth noise of two grain sizes, about -1 to 1."""
    grains = (rng.standard_normal((grain, grain)) for grain in (14, 30))
    resized = [cv2.resize(g, (width, height), interpolation=cv2.INTER_CUBIC) for g in grains]
    return np.asarray(0.5 * (resized[0] + resized[1]))


def _frontal(u_HW: Floats, v_HW: Floats, vary_6: Floats, *, large: bool) -> _Thorax:
    """Build a frontal thorax; `vary_6` in -1..1 are the patient's own proportions."""
    shoulder_HW = np.clip((v_HW + 0.5) / 0.2, 0, 1)
    half_HW = 0.13 + (0.34 + 0.015 * vary_6[0]) * shoulder_HW * (2 - shoulder_HW)
    body_HW = _soft(half_HW - np.abs(u_HW), 0.03)
    lungs, depth = {}, {}
    for side, sign in SIDES.items():
        out_HW = sign * u_HW
        rise_HW = np.clip((v_HW - LUNG_TOP) / 0.42, 0, 1)
        wall_HW = 0.07 + (0.31 + 0.012 * vary_6[1]) * np.sqrt(rise_HW * (2 - rise_HW))
        dome = LUNG_BASE - 0.06 - 0.02 * (sign < 0) + 0.01 * vary_6[2]
        base_HW = dome + 1.9 * (out_HW - 0.17) ** 2
        depth[side] = wall_HW - out_HW
        edges_HW = np.minimum(out_HW - 0.065, np.minimum(v_HW - LUNG_TOP, base_HW - v_HW))
        lungs[side] = _soft(np.minimum(depth[side], edges_HW))
    ru, rv = (0.245, 0.185) if large else (0.15, 0.15)
    middle = (0.095 if large else 0.055) + 0.008 * vary_6[3]
    tilt_HW = v_HW - 0.35 * (u_HW - middle)
    heart_HW = _soft(_ellipse(u_HW, tilt_HW, middle, 0.12, ru * (1 + 0.04 * vary_6[4]), rv), 0.15)
    ribs_HW = np.clip(np.cos(2 * np.pi * (v_HW - 0.33 * np.abs(u_HW)) / 0.088), 0, 1) ** 2
    clavicle_HW = _soft(0.014 - np.abs(v_HW + 0.29 + 0.22 * (np.abs(u_HW) - 0.2)), 0.012)
    clavicle_HW *= _soft(0.36 - np.abs(u_HW)) * _soft(np.abs(u_HW) - 0.05)
    spine_HW = np.exp(-((u_HW / 0.045) ** 2)) * (1 + 0.25 * np.cos(2 * np.pi * v_HW / 0.075))
    bones_HW = 0.07 * ribs_HW * _soft(0.3 - v_HW) + 0.1 * clavicle_HW + 0.09 * spine_HW
    return _Thorax(
        u=u_HW,
        v=v_HW,
        body=body_HW,
        lungs={side: lung_HW * (1 - heart_HW) for side, lung_HW in lungs.items()},
        depth=depth,
        bones=bones_HW,
    )


def _lateral(u_HW: Floats, v_HW: Floats, vary_6: Floats, *, large: bool) -> _Thorax:
    """Build a lateral thorax, the front on the left; both lungs lie over each other."""
    half_HW = 0.3 + 0.02 * vary_6[0] - 0.9 * np.clip(-0.36 - v_HW, 0, 1)
    body_HW = _soft(half_HW - np.abs(u_HW), 0.03)
    base_HW = LUNG_BASE - 0.05 + 0.35 * u_HW
    depth_HW = 0.3 * _ellipse(u_HW, v_HW, 0.0, 0.0, 0.25, 0.39)
    lung_HW = _soft(np.minimum(depth_HW, base_HW - v_HW))
    radius = 0.17 if large else 0.115
    heart_HW = _soft(_ellipse(u_HW, v_HW, -0.11, 0.12 + 0.01 * vary_6[3], radius, radius), 0.15)
    ribs_HW = np.clip(np.cos(2 * np.pi * (v_HW - 0.5 * u_HW) / 0.1), 0, 1) ** 2
    spine_HW = np.exp(-(((u_HW - 0.2 - 0.25 * v_HW**2) / 0.045) ** 2))
    spine_HW = spine_HW * (1 + 0.4 * np.cos(2 * np.pi * v_HW / 0.075))
    bones_HW = 0.05 * ribs_HW * _soft(0.3 - v_HW) + 0.16 * spine_HW
    return _Thorax(
        u=u_HW,
        v=v_HW,
        body=body_HW,
        lungs=dict.fromkeys(SIDES, lung_HW * (1 - heart_HW)),
        depth=dict.fromkeys(SIDES, depth_HW),
        bones=bones_HW,
    )


def _show_normal(
    thorax: _Thorax, texture_HW: Floats, findings: tuple[Finding, ...], *, view: str
) -> Floats:
    """Return absorption [H, W] of the thorax, with the findings that change the lungs' air."""
    air_HW = np.maximum(thorax.lungs["right"], thorax.lungs["left"])
    vessels_HW = 0.035 * texture_HW
    for side, sign in SIDES.items():
        vessels_HW = vessels_HW + 0.12 * _glow(thorax.u, thorax.v, sign * 0.1, -0.02, 0.055)
        if view != LATERAL and Finding(name="Pneumothorax", side=side) in findings:
            free_HW, _ = _pleura(thorax, side)
            vessels_HW = vessels_HW * (1 - free_HW)
    image_HW = 0.05 + 0.62 * thorax.body - 0.43 * air_HW * thorax.body
    return image_HW + air_HW * vessels_HW + thorax.body * thorax.bones


def _pleura(thorax: _Thorax, side: str) -> tuple[Floats, Floats]:
    """Return the air between chest wall and fallen lung, and the lung's bright rim."""
    gap_HW = 0.075 + 0.2 * np.clip(-0.12 - thorax.v, 0, 0.3)
    rim_HW = gap_HW - thorax.depth[side]
    lung_HW = thorax.lungs[side]
    return lung_HW * _soft(rim_HW, 0.012), lung_HW * _soft(0.009 - np.abs(rim_HW), 0.008)


def _show(
    image_HW: Floats, thorax: _Thorax, finding: Finding, rng: np.random.Generator, *, view: str
) -> Box | None:
    """Add a finding to the image in place; return the box of an opacity."""
    u_HW, v_HW = thorax.u, thorax.v
    if finding.name in OPACITIES:
        return _show_opacity(image_HW, thorax, finding, rng, view=view)
    if finding.name == "Pleural Effusion":
        out_HW = u_HW if view == LATERAL else SIDES[finding.side] * u_HW
        level_HW = rng.uniform(0.06, 0.13) - 0.5 * np.clip(out_HW - 0.12, 0, 0.3)
        fluid_HW = np.clip(4 * thorax.lungs[finding.side], 0, 1) * _soft(v_HW - level_HW, 0.05)
        image_HW += fluid_HW * np.clip(0.68 - image_HW, 0, 1)
    elif finding.name == "Edema":
        haze_HW = 0.11 + 0.16 * sum(_glow(u_HW, v_HW, s * 0.16, 0.0, 0.13) for s in (-1, 1))
        lungs_HW = np.maximum(thorax.lungs["right"], thorax.lungs["left"])
        image_HW += lungs_HW * haze_HW * rng.uniform(0.9, 1.2)
    elif finding.name == "Pneumothorax" and view != LATERAL:
        free_HW, rim_HW = _pleura(thorax, finding.side)
        image_HW += 0.16 * rim_HW - 0.13 * free_HW
    return None


def _show_opacity(
    image_HW: Floats, thorax: _Thorax, finding: Finding, rng: np.random.Generator, *, view: str
) -> Box:
    """Add a bright patch, about 15 to 20 % of the film's shorter side wide; return its box."""
    upper = finding.zone == "upper"
    out = rng.uniform(0.02, 0.08) if view == LATERAL else rng.uniform(0.21, 0.25)
    u = out if view == LATERAL else SIDES[finding.side] * out
    v = rng.uniform(-0.19, -0.14) if upper else rng.uniform(0.06, 0.11)
    ru, rv = rng.uniform(0.11, 0.145), rng.uniform(0.1, 0.135)
    phase = rng.uniform(0, 6)
    wave_HW = 0.1 * np.sin(4 * thorax.u / ru + phase) * np.sin(4 * thorax.v / rv + phase)
    patch_HW = _soft(_ellipse(thorax.u, thorax.v, u, v, ru, rv) - 0.3 + wave_HW, 0.6)
    added_HW = 0.33 * patch_HW * thorax.lungs[finding.side]
    image_HW += added_HW
    rows, columns = np.nonzero(added_HW.max(axis=1))[0], np.nonzero(added_HW.max(axis=0))[0]
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y
