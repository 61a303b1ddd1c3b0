"""The looks of the dermoscopy phantom: skin, pigment, hair, scale, bubbles and the instrument's field of view.

Colours follow Beer's law: skin reflects light, and what lies in it absorbs some of each of red, green and blue. The
mean skin and lesion colours are those of the ISIC 2017 training photographs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from scipy.spatial import cKDTree

from convformer_monai.phantoms.cardiac_anatomy import Array

# red, green, blue of skins as the cameras give them: pink, fair, yellowish, tanned, bluish, brown
SKINS = ((226, 172, 164), (218, 196, 188), (206, 186, 150), (196, 152, 124), (172, 172, 192), (150, 112, 90))
# absorption of red, green and blue by each pigment
MELANIN = np.array([0.42, 0.92, 1.25])
DEEP_MELANIN = np.array([1.1, 1.0, 0.85])  # looks blue-grey: the skin above scatters blue
BLOOD = np.array([0.06, 0.62, 0.55])
OVERSAMPLING = 2  # of drawn lines
NODES = 128  # of the noise, along each side, before it repeats


@dataclass(frozen=True)
class Scene:
    """The image plane, and random numbers that are the same at every size.

    Attributes:
        columns: width, pixels.
        rows: height, pixels.
        seed: of everything random.
    """

    columns: int
    rows: int
    seed: int

    @property
    def short(self) -> int:
        """The shorter side, pixels."""
        return min(self.columns, self.rows)

    def rng(self, stream: int) -> np.random.Generator:
        """Random numbers of one kind of thing."""
        return np.random.default_rng([self.seed, 31, stream])

    def grid(self) -> tuple[Array, Array]:
        """Positions x, y (H, W) from the middle of the image, in units of its shorter side."""
        x = (np.arange(self.columns, dtype=np.float32) + 0.5 - self.columns / 2) / self.short
        y = (np.arange(self.rows, dtype=np.float32) + 0.5 - self.rows / 2) / self.short
        return np.broadcast_to(x, (self.rows, self.columns)), np.broadcast_to(y[:, None], (self.rows, self.columns))

    def noise(self, stream: int, cell: float) -> Array:
        """Smooth noise (H, W) of mean 0 and variance about 1, its grain in units of the shorter side.

        A cubic B-spline surface over random numbers: on a grid, two matrix products.
        """
        lattice = self.rng(stream).normal(size=(NODES, NODES)).astype(np.float32)
        x, y = self.grid()
        return np.asarray(2.3 * _spline_weights(y[:, 0] / cell) @ lattice @ _spline_weights(x[0] / cell).T)


def _spline_weights(at: Array) -> Array:
    """Weight (N, NODES) of each node of a periodic cubic B-spline at positions (N,), in nodes."""
    node = np.floor(at).astype(int)
    t = at - node
    weights = np.zeros((len(at), NODES), dtype=np.float32)
    taps = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3
    for k, tap in enumerate(taps):
        weights[np.arange(len(at)), (node + k - 1) % NODES] = tap / 6
    return weights


def photograph(
    scene: Scene, distance: Array, *, hair: bool, ruler_mm: float | None, vignette: bool
) -> NDArray[np.uint8]:
    """Paints the photograph.

    Args:
        scene: the image plane and its random numbers.
        distance: (H, W) from the lesion's outline, pixels, negative inside.
        hair: with hairs.
        ruler_mm: mm in a pixel, for the scale; `None` for no scale.
        vignette: with dark corners.

    Returns:
        (H, W, 3) RGB.
    """
    light = _skin(scene)
    light = light * np.exp(-_pigment(scene, distance / scene.short))
    light = _bubbles(scene, light)
    if ruler_mm is not None:
        light = _ruler(scene, light, ruler_mm)
    if hair:
        light = _hairs(scene, light)
    light = ndimage.gaussian_filter(light, (0.0008 * scene.short, 0.0008 * scene.short, 0))
    light = _illuminate(scene, light, vignette)
    noise = scene.rng(1).normal(0, 1, (*light.shape[:2], 3)).astype(np.float32)
    light = light + 1.6 * noise + 2.4 * ndimage.gaussian_filter(noise[..., :1], (0.8, 0.8, 0))
    return np.asarray(np.rint(np.clip(light, 0, 255)), dtype=np.uint8)


def _skin(scene: Scene) -> Array:
    """Skin (H, W, 3): its tone, redness, fine furrows, and freckles."""
    rng = scene.rng(2)
    tone = np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.92, 1.06) + rng.normal(0, 4, 3)
    patches = scene.noise(3, 0.22) + 0.6 * scene.noise(4, 0.07)
    vessels = np.exp(-((scene.noise(5, 0.075) / 0.07) ** 2)) * np.clip(scene.noise(6, 0.25), 0, 2)
    redness = 0.05 * patches + rng.uniform(0.0, 0.12) * vessels
    furrows = np.exp(-((scene.noise(7, 0.019) / 0.22) ** 2)) + np.exp(-((scene.noise(8, 0.016) / 0.22) ** 2))
    grain = scene.noise(9, 0.006) + 0.7 * scene.noise(10, 0.012)
    freckles = np.clip(scene.noise(11, 0.03) - 2.4, 0, None) * rng.uniform(0, 0.7)
    shade = 0.018 * furrows + 0.012 * grain + 0.02 * scene.noise(12, 0.12)
    melanin = freckles + 0.04 * scene.noise(13, 0.3)
    absorbed = redness[..., None] * BLOOD + melanin[..., None] * MELANIN + shade[..., None]
    return np.asarray(tone * np.exp(-absorbed), dtype=np.float32)


def _pigment(scene: Scene, distance: Array) -> Array:
    """What the lesion absorbs (H, W, 3); half of it is reached on the outline, sharply or gradually along it."""
    rng = scene.rng(20)
    width = rng.uniform(0.005, 0.013) * np.exp(0.45 * scene.noise(21, 0.2))
    cover = 1 / (1 + np.exp(np.clip(distance / width, -30, 30)))
    depth = np.clip(-distance / 0.16, 0, 1)  # from the outline inwards
    strength = rng.uniform(0.5, 1.3)
    clouds = scene.noise(22, 0.13) + 0.6 * scene.noise(23, 0.05)
    amount = strength * (0.75 + rng.uniform(0.0, 0.5) * depth) * np.exp(rng.uniform(0.15, 0.4) * clouds)
    network = _honeycomb(scene, distance < 0.03, rng.uniform(0.013, 0.024))
    network = network * np.clip(0.5 + 0.6 * scene.noise(26, 0.15), 0, 1) * (1 - 0.6 * depth)
    globules = np.clip(scene.noise(27, 0.010) - 1.4, 0, 1) * np.clip(scene.noise(28, 0.12), 0, 1.5)
    amount = amount * (0.85 + rng.uniform(0.2, 0.6) * network) + rng.uniform(0.2, 0.7) * globules
    amount = amount * (1 + 0.05 * scene.noise(29, 0.006))
    dark = rng.uniform(0.0, 1.3) * np.clip(scene.noise(30, 0.12) - 0.4, 0, 1.2) * depth**0.5
    blue = rng.uniform(0.0, 0.9) * np.clip(scene.noise(31, 0.13) - 0.6, 0, 1) * depth**0.5
    red = rng.uniform(0.0, 0.5) * np.clip(scene.noise(32, 0.14) - 0.2, 0, 1.2)
    pale = rng.uniform(0.0, 0.5) * np.clip(scene.noise(33, 0.1) - 0.7, 0, 1) * depth
    melanin = np.clip((amount + dark) * (1 - pale), 0.25 * strength, 3.0)
    absorbed = melanin[..., None] * MELANIN + blue[..., None] * DEEP_MELANIN + red[..., None] * BLOOD
    halo = 0.10 * strength * np.exp(-np.clip(distance, 0, None) / 0.04)  # faint pigment and redness around it
    return np.asarray(cover[..., None] * absorbed + ((1 - cover) * halo)[..., None] * (MELANIN + BLOOD) / 2)


def _honeycomb(scene: Scene, where: Array, cell: float) -> Array:
    """The pigment network (H, W): 1 on the borders between the cells of scattered points, 0 within them."""
    rng = scene.rng(24)
    reach = np.arange(-0.75, 0.75, cell)
    points = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    points = points + cell * rng.uniform(-0.42, 0.42, points.shape)
    x, y = scene.grid()
    warp = 0.25 * cell
    at = np.stack([x + warp * scene.noise(25, 0.02), y + warp * scene.noise(34, 0.02)], axis=-1)[where]
    nearest, _ = cKDTree(points).query(at, k=2)
    network = np.zeros(where.shape, dtype=np.float32)
    network[where] = np.exp(-(((nearest[:, 1] - nearest[:, 0]) / (0.28 * cell)) ** 2))
    return network


def _drawing(scene: Scene) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("L", (scene.columns * OVERSAMPLING, scene.rows * OVERSAMPLING))
    return image, ImageDraw.Draw(image)


def _coverage(scene: Scene, image: Image.Image) -> Array:
    """A drawing as coverage (H, W, 1), 0 to 1."""
    small = image.resize((scene.columns, scene.rows), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)[..., None] / 255


def _hairs(scene: Scene, light: Array) -> Array:
    """Draws hairs: curved lines that taper, mostly dark, some light, each kind with a soft shadow."""
    rng = scene.rng(40)
    unit = scene.short * OVERSAMPLING
    main_direction = rng.uniform(0, 2 * math.pi)
    t = np.linspace(0, 1, 60)
    for count, colour in ((int(rng.integers(6, 32)), (48, 34, 28)), (int(rng.integers(0, 7)), (236, 222, 205))):
        image, draw = _drawing(scene)
        for _ in range(count):
            direction = main_direction + rng.normal(0, 0.6)
            length, bend = rng.uniform(0.15, 0.8), rng.normal(0, 0.25)
            x = rng.uniform(0, scene.columns) * OVERSAMPLING + unit * length * (t - 0.5) * math.cos(direction)
            y = rng.uniform(0, scene.rows) * OVERSAMPLING + unit * length * (t - 0.5) * math.sin(direction)
            arc = unit * length * bend * (t - 0.5) ** 2 * 2 + unit * 0.01 * rng.normal() * np.sin(5 * t)
            x, y = x - arc * math.sin(direction), y + arc * math.cos(direction)
            thick = rng.uniform(0.0022, 0.0045) * unit
            opacity = int(rng.uniform(150, 245))
            points = list(zip(x.tolist(), y.tolist(), strict=True))
            for i in range(len(points) - 1):
                draw.line(points[i : i + 2], fill=opacity, width=max(1, round(thick * (1 - 0.6 * float(t[i])))))
        cover = _coverage(scene, image)
        if colour[0] < 128:
            shadow = np.roll(cover, max(1, scene.short // 200), axis=0)
            blur = scene.short / 250
            light = light * (1 - 0.35 * ndimage.gaussian_filter(shadow, (blur, blur, 0)))
        light = light + cover * (np.array(colour) - light)
    return light


def _ruler(scene: Scene, light: Array, mm: float) -> Array:
    """Draws an inked scale below the lesion: a tick each millimetre, a longer one each five."""
    rng = scene.rng(50)
    image, draw = _drawing(scene)
    pixels = OVERSAMPLING / mm  # in a millimetre
    count = int(max(1, min(10, 0.7 * scene.columns * OVERSAMPLING / pixels)))
    angle = rng.normal(0, 0.03)
    cos, sin = math.cos(angle), math.sin(angle)
    start_x = (scene.columns * OVERSAMPLING - count * pixels) * rng.uniform(0.35, 0.65)
    start_y = scene.rows * OVERSAMPLING * rng.uniform(0.89, 0.92)
    width = max(1, round(0.0025 * scene.short * OVERSAMPLING))
    tick = 0.018 * scene.short * OVERSAMPLING
    draw.line((start_x, start_y, start_x + count * pixels * cos, start_y + count * pixels * sin), 220, width)
    for i in range(count + 1):
        x, y = start_x + i * pixels * cos, start_y + i * pixels * sin
        height = tick * (1.7 if i % 5 == 0 else 1.0)
        draw.line((x, y, x + height * sin, y - height * cos), 220, width)
    font = ImageFont.load_default(max(8, 1.3 * tick))
    draw.text((start_x, start_y + 0.3 * tick), "MM", 220, font)
    return np.asarray(light + _coverage(scene, image) * (np.array((52, 44, 42)) - light))


def _bubbles(scene: Scene, light: Array) -> Array:
    """Adds what shines: bubbles of the gel, with a bright spot and rim, and small specular flecks."""
    rng = scene.rng(60)
    image, draw = _drawing(scene)
    unit = scene.short * OVERSAMPLING
    for _ in range(int(rng.integers(0, 9))):
        x, y = rng.uniform(0, scene.columns) * OVERSAMPLING, rng.uniform(0, scene.rows) * OVERSAMPLING
        radius = unit * rng.uniform(0.004, 0.016)
        rim = max(1, round(0.12 * radius))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=90, width=rim)
        spot = 0.25 * radius
        draw.ellipse((x - 2 * spot, y - 2 * spot, x - spot * 0.5, y - spot * 0.5), fill=230)
    gleam = np.clip(scene.noise(61, 0.006) - 2.5, 0, 1) * np.clip(scene.noise(62, 0.12) - 1.2, 0, 1)
    cover = np.maximum(_coverage(scene, image), np.clip(rng.uniform(0, 3) * gleam, 0, 0.9)[..., None])
    return np.asarray(light + cover * (np.array((252, 250, 246)) - light))


def _illuminate(scene: Scene, light: Array, vignette: bool) -> Array:
    """Light that falls off towards the side, and the dark outside of the round field of view."""
    rng = scene.rng(70)
    x, y = scene.grid()
    centre = rng.normal(0, 0.02, 2)
    radius = np.hypot(x - centre[0], y - centre[1])
    light = light * (1.04 - rng.uniform(0.08, 0.3) * radius**2)[..., None]
    if vignette:
        corner = math.hypot(scene.columns, scene.rows) / 2 / scene.short
        edge = corner * rng.uniform(0.84, 0.95)
        outside = 1 / (1 + np.exp(np.clip((edge - radius) / rng.uniform(0.006, 0.03), -30, 30)))
        light = light + outside[..., None] * (np.array((9, 8, 10)) - light)
    return np.asarray(light)
