"""Inspection: one viewer's slide and predictions, what is shown of them, and the way around them.

No widget is needed for it; the widgets only show it and turn its knobs.
"""

from __future__ import annotations

from dataclasses import replace
from textwrap import wrap
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer, Shapes
from numpy.typing import NDArray
from psygnal import Signal

from milpath.figures.heatmap import Heatmap, PatchScores, rasterize_scores
from milpath.formats.prediction import Prediction
from milpath.slides.lattice import from_world, to_um, to_world
from napari_milpath.colours import Shown, show_heatmap
from napari_milpath.layers import KEY, Mpp, frame, prediction_of, pyramid_of, restyle
from napari_milpath.look import Look, Voice, score_voice, subtract_voice, voices_of
from napari_milpath.lookup import PatchLookup
from napari_milpath.pyramid import Pyramid

FORCED = "forced: made of another slide"
"""What is said of a prediction as long as it is shown over a slide that is not its own."""

_PATCH_ON_SCREEN_PX = 250  # a patch that is flown to is about so wide
_BOX = "milpath patch"
_CAPTION = 40  # letters in a line on the canvas: there is a scale bar beside it
_CAPTION_POINTS = 8.0
_GLASS = "white"  # under legends: colours look on it as they do on a slide
_BOX_SHARE = 16  # of the patch's side is the line around it: still seen on the whole slide
_BOX_COLOUR = "black"  # seen on tissue, on glass and on every colour map


class Inspection:
    """What is looked at.

    Parameters
    ----------
    viewer : whose layers are inspected, those that are there and those that come
    """

    changed = Signal()
    """The predictions, or the scores that are shown of them, have changed."""

    restyled = Signal()
    """The same scores are shown in other colours."""

    moved = Signal(int)
    """Another patch is looked at: its row, -1 for none."""

    def __init__(self, viewer: ViewerModel) -> None:
        self.viewer = viewer
        self.look = Look()
        self.voices: list[Voice] = []
        self.voice: Voice | None = None
        self.other: Voice | None = None
        self.scores: PatchScores | None = None
        self.heatmap: Heatmap | None = None
        self.shown: Shown | None = None
        self.patch = -1
        self._lookup: PatchLookup | None = None
        self._listed: list[tuple[Layer, Prediction]] = []
        self._slides: list[Pyramid] = []
        viewer.layers.events.inserted.connect(self.refresh)
        viewer.layers.events.removed.connect(self.refresh)
        viewer.mouse_move_callbacks.append(self._on_mouse)
        self.refresh()

    def close(self) -> None:
        """Leave the viewer alone from here on."""
        if self._on_mouse in self.viewer.mouse_move_callbacks:
            self.viewer.layers.events.inserted.disconnect(self.refresh)
            self.viewer.layers.events.removed.disconnect(self.refresh)
            self.viewer.mouse_move_callbacks.remove(self._on_mouse)

    # -- what there is ---------------------------------------------------------------------------

    def refresh(self, event: Any = None) -> None:
        """Take note of the viewer's slides and predictions."""
        listed = [(layer, found) for layer in self.viewer.layers if (found := prediction_of(layer))]
        slides = [slide for layer in self.viewer.layers if (slide := pyramid_of(layer))]
        others, self._slides = slides != self._slides, slides
        if listed == self._listed:
            if others:
                self._fit_slide()
                self._caption()
                self.changed.emit()
            return
        fresh = len(listed) > len(self._listed)
        self._listed = listed
        self.voices = [voice for layer, found in listed for voice in voices_of(layer.name, found)]
        names = {voice.name: voice for voice in self.voices}
        self.other = names.get(self.other.name) if self.other else None
        kept = names.get(self.voice.name) if self.voice and not fresh else None
        newest = voices_of(listed[-1][0].name, listed[-1][1])[0] if listed else None
        self.choose(kept or newest, self.other)

    @property
    def layer(self) -> Image | None:
        """The layer that the chosen voice is drawn in."""
        for layer, found in self._listed:
            if self.voice is not None and found is self.voice.prediction:
                return layer
        return None

    @property
    def pyramid(self) -> Pyramid | None:
        """The slide: the one that the chosen prediction was made of, else the uppermost."""
        found = self._slides
        if self.voice is not None:
            code = self.voice.prediction.slide.quickhash
            found = [each for each in found if each.quickhash == code] or found
        return found[-1] if found else None

    @property
    def forced(self) -> bool:
        """Whether the chosen prediction lies over a slide that it was not made of."""
        slide = self.pyramid
        if self.voice is None or slide is None:
            return False
        return slide.quickhash != self.voice.prediction.slide.quickhash

    @property
    def mpp(self) -> Mpp | None:
        """(x, y) µm per pixel of what is drawn; None where nothing says it."""
        if self.voice is None:
            return None
        return self.voice.prediction.slide.mpp_x, self.voice.prediction.slide.mpp_y

    # -- what is shown ---------------------------------------------------------------------------

    def choose(self, voice: Voice | None, other: Voice | None = None) -> None:
        """Show one voice, or what it says less what another says; hide the other layers."""
        if voice is not self.voice:
            self._lookup = None
            self.patch = -1
        self.voice, self.other = voice, other
        if voice is not None:
            self._lookup = self._lookup or PatchLookup(voice.prediction.grid)
            if self.look.class_name not in (None, *voice.prediction.class_names):
                self.look = replace(self.look, class_name=None)
            for layer, found in self._listed:
                layer.visible = found is voice.prediction
            self.viewer.layers.selection = {self.layer}  # whose controls napari shows
            self._fit_slide()
        self._draw(new_scores=True)

    def show(self, **changes: Any) -> None:
        """Change the look by its attributes, such as `threshold=0.5`."""
        old, self.look = self.look, replace(self.look, **changes)
        self._draw(
            new_scores=any(
                getattr(old, name) != getattr(self.look, name)
                for name in ("score", "scale", "class_name")
            )
        )

    def _draw(self, *, new_scores: bool) -> None:
        layer, voice = self.layer, self.voice
        if voice is None or layer is None:
            self.scores = self.heatmap = self.shown = None
        else:
            if new_scores or self.scores is None or self.heatmap is None:
                self.scores = (
                    subtract_voice(voice, self.other, self.look)
                    if self.other is not None
                    else score_voice(voice, self.look)
                )
                self.heatmap = rasterize_scores(voice.prediction.grid, self.scores)
            palette = self.look.palette
            made = show_heatmap(self.heatmap, palette, self.look.threshold)
            if not new_scores and self.shown is not None:
                made = replace(made, values=self.shown.values)  # the same array: no new upload
            self.shown = made
            restyle(layer, made)
            bar = layer.colorbar
            bar.box, bar.box_color, bar.color, bar.visible = True, _GLASS, "black", True
        self._caption()
        (self.changed if new_scores else self.restyled).emit()

    def _caption(self) -> None:
        """On the canvas: what is seen, so that a screenshot explains itself."""
        text = self.viewer.canvas.overlays.text
        text.visible = False
        if self.voice is not None and self.shown is not None:
            lines = (say_prediction(self.voice), self.shown.label, *[FORCED] * self.forced)
            text.text = "\n".join(
                f"{line}\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}"
                for each in lines
                for line in wrap(each, _CAPTION)
            )
            text.position, text.color = "bottom_left", "black"
            text.font_size = _CAPTION_POINTS
            text.box, text.box_color = True, _GLASS
            text.visible = True  # last: its box is measured then

    def _fit_slide(self) -> None:
        """Give a slide that does not know its resolution that of its prediction."""
        for layer in self.viewer.layers:
            pyramid = pyramid_of(layer)
            if pyramid is not None and pyramid is self.pyramid and self.mpp is not None:
                placed = frame(self.mpp)
                layer.scale, layer.units = placed["scale"], placed["units"]

    # -- finding one's way -----------------------------------------------------------------------

    def _on_mouse(self, viewer: ViewerModel, event: Any) -> None:
        self.moved.emit(self.patch_at(event.position))

    def patch_at(self, position: tuple[float, ...]) -> int:
        """The patch under a place of the viewer (y, x), -1 for none."""
        if self._lookup is None or self.mpp is None:
            return -1
        return int(self._lookup.find(from_world([position[-2:]], self.mpp))[0])

    def say_patch(self, row: int) -> str:
        """In three lines: a patch's number and place, and all its scores."""
        if self.voice is None or self.mpp is None or row < 0:
            return ""
        grid, names = self.voice.prediction.grid, self.voice.prediction.class_names
        x, y = to_um(grid.coords[row] + grid.patch_size_l0 / 2, self.mpp) / 1000
        weight, adds = self.voice.attention[row], self.voice.contributions[row]
        evidence = ", ".join(f"{name} {add:+.3g}" for name, add in zip(names, adds, strict=True))
        return (
            f"patch {row} at x {x:.3f} mm, y {y:.3f} mm\n"
            f"attention {weight:.3g}, {weight * len(grid):.3g}× the mean, "
            f"percentile {self.voice.ranks[row]:.1f}\n"
            f"adds to the logits: {evidence}"
        )

    def go_to(self, row: int) -> None:
        """Fly to a patch and frame it."""
        if self.voice is None or self.mpp is None or not 0 <= row < len(self.voice.prediction.grid):
            return
        self.patch = row
        grid = self.voice.prediction.grid
        low = to_world(grid.coords[row], self.mpp)
        high = to_world(grid.coords[row] + grid.patch_size_l0, self.mpp)
        self._frame_patch(low, high)
        camera = self.viewer.scene.camera
        camera.center = (0.0, *((low + high) / 2).tolist())
        camera.zoom = _PATCH_ON_SCREEN_PX / float((high - low).max())
        self.moved.emit(row)

    def _frame_patch(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        corners = np.array([low, [low[0], high[1]], high, [high[0], low[1]]])
        selected = set(self.viewer.layers.selection)
        if _BOX in self.viewer.layers:
            self.viewer.layers.remove(_BOX)
        box = Shapes(
            corners[None],
            shape_type="rectangle",
            name=_BOX,
            edge_color=_BOX_COLOUR,
            edge_width=float((high - low).max()) / _BOX_SHARE,
            face_color="transparent",
            units=("um", "um"),
            axis_labels=("y", "x"),
            metadata={KEY: None},
        )
        self.viewer.add_layer(box)
        self.viewer.layers.selection = selected  # the layer at work stays the one at work


def say_prediction(voice: Voice) -> str:
    """In a line: the slide, its class and every class's probability."""
    prediction, probs = voice.prediction, voice.probs
    who = prediction.slide.slide_id
    if voice.member is not None:
        who += f", member {voice.member}"
    order = np.argsort(-probs).tolist()
    sure = ", ".join(f"{prediction.class_names[index]} {probs[index]:.3f}" for index in order)
    several = len(prediction.member_bias) > 1 and voice.member is None
    spread = (
        f" (±\N{NO-BREAK SPACE}{prediction.spread.max():.3f} over the ensemble)" if several else ""
    )
    return f"{who}: {sure}{spread}"


def say_concentration(voice: Voice) -> str:
    """In a line: on how many patches the attention rests."""
    weights = voice.attention
    effective = max(1, round(1 / float(np.square(weights).sum())))
    top = max(1, len(weights) // 100)
    mass = float(np.sort(weights)[-top:].sum())
    return (
        f"attention rests on about {effective:,} of {len(weights):,} patches; "
        f"the top {top:,} hold {mass:.0%} of it"
    )
