"""State of one viewer: its slides and predictions, the displayed scores, the current patch.

It works without a widget; the widgets display and change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from textwrap import wrap
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer, Shapes
from napari.utils.notifications import show_warning
from numpy.typing import NDArray
from psygnal import Signal

from milpath.errors import UsageError
from milpath.figures.heatmap import Heatmap, PatchScores, rasterize_scores
from milpath.formats.prediction import Prediction, describe_unchecked, find_mismatch
from milpath.slides.lattice import from_world, to_um, to_world
from napari_milpath.heatmap_image import (
    HeatmapImage,
    build_heatmap_image,
    build_unplaced_image,
    follow_layer,
)
from napari_milpath.layers import (
    KEY,
    Mpp,
    frame,
    keep_slides_below,
    prediction_of,
    pyramid_of,
    update_layer,
)
from napari_milpath.lookup import PatchLookup
from napari_milpath.pyramid import Pyramid
from napari_milpath.scores import (
    DisplaySettings,
    ScoreSource,
    compute_scores,
    describe_choice,
    measure_source,
    score_sources,
    subtract_scores,
)

FORCED = "forced: made from a different slide"
"""Warning beside a prediction that lies over a slide it was not made from."""

NOT_PLACED = "nothing is drawn: the files of its features hold no coordinates of the patches"
"""Warning beside a prediction of patches at unknown places."""

_PATCH_ON_SCREEN_PX = 250  # width of the current patch after `go_to`
_BOX = "milpath patch"
_CAPTION_LETTERS = 40  # per line, so that the scale bar fits beside it
_CAPTION_POINTS = 8.0
_LINES_PER_BLANK = 6  # napari makes the box of many lines too low by about a tenth
_BACKGROUND = "white"  # of legends, as the slide's background
_BOX_WIDTH = 1 / 16  # of the patch's side: visible at the zoom of the whole slide
_BOX_COLOUR = "black"  # visible on tissue, background and every colormap


class Inspection:
    """What a viewer displays of its slides and predictions.

    Parameters
    ----------
    viewer : its present and its future layers are inspected

    Attributes
    ----------
    settings : which scores are displayed, and in which colours
    sources : predictions and ensemble members to choose from
    source, subtracted : the chosen source; None or the one subtracted from it
    scores, heatmap, image : displayed scores per patch, on a raster, and in napari's terms; the
        raster is None if the places of the patches are not known
    patch : row of the current patch, -1 for none
    """

    changed = Signal()
    """The slides, the predictions or the displayed scores changed."""

    restyled = Signal()
    """The colours changed, the scores did not."""

    recovered = Signal()
    """A slide's file that was gone or damaged can be read again."""

    moved = Signal(int)
    """The patch under the mouse, or the new current patch: its row, -1 for none."""

    def __init__(self, viewer: ViewerModel) -> None:
        self.viewer = viewer
        self.settings = DisplaySettings()
        self.sources: list[ScoreSource] = []
        self.source: ScoreSource | None = None
        self.subtracted: ScoreSource | None = None
        self.scores: PatchScores | None = None
        self.heatmap: Heatmap | None = None
        self.image: HeatmapImage | None = None
        self.patch = -1
        self._lookup: PatchLookup | None = None
        self._listed: list[tuple[Layer, Prediction]] = []
        self._slides: list[Pyramid] = []
        self._drawing = False
        keep_slides_below(viewer.layers)
        viewer.layers.events.inserted.connect(self.refresh)
        viewer.layers.events.removed.connect(self.refresh)
        viewer.mouse_move_callbacks.append(self._on_mouse)
        self.refresh()

    def close(self) -> None:
        """Disconnect from the viewer."""
        if self._on_mouse in self.viewer.mouse_move_callbacks:
            self.viewer.layers.events.inserted.disconnect(self.refresh)
            self.viewer.layers.events.removed.disconnect(self.refresh)
            self.viewer.mouse_move_callbacks.remove(self._on_mouse)
            self._follow([layer for layer, _ in self._listed], follow=False)

    # -- slides, predictions-----------------------------------------------------------------------

    def refresh(self, event: Any = None) -> None:
        """Read the slides and predictions from the viewer's layers."""
        listed = [(layer, found) for layer in self.viewer.layers if (found := prediction_of(layer))]
        slides = [slide for layer in self.viewer.layers if (slide := pyramid_of(layer))]
        slides_changed, self._slides = slides != self._slides, slides
        if listed == self._listed:
            if slides_changed:
                self._fit_slide()
                self._caption()
                self.changed.emit()
            return
        added = len(listed) > len(self._listed)
        self._follow([layer for layer, _ in self._listed], follow=False)
        self._follow([layer for layer, _ in listed], follow=True)
        self._listed = listed
        kept, subtracted = self._list_sources()
        newest = self._first_source(listed[-1][0]) if listed else None
        self.choose(newest if added else kept or newest, subtracted)

    def _list_sources(self) -> tuple[ScoreSource | None, ScoreSource | None]:
        """List the sources by their layers' names; return the ones that were chosen."""
        chosen = self.source, self.subtracted
        self.sources = [
            source for layer, found in self._listed for source in score_sources(layer.name, found)
        ]
        kept = [
            next((source for source in self.sources if source.is_of(old)), None)
            if old is not None
            else None
            for old in chosen
        ]
        return kept[0], kept[1]

    def _first_source(self, layer: Layer) -> ScoreSource | None:
        """Return the source that is listed first of a layer."""
        found = prediction_of(layer)
        return next((source for source in self.sources if source.prediction is found), None)

    def check_files(self) -> str:
        """Draw slides again whose files are back; say what still is hatched, a line per slide."""
        lines = []
        for layer in self.viewer.layers:
            pyramid = pyramid_of(layer)
            if pyramid is None:
                continue
            if pyramid.retry():
                layer.data = list(pyramid.levels)  # a refresh keeps the coarsest level
                self.recovered.emit()
            lines.append(pyramid.describe_damage())
        return "\n".join(filter(None, lines))

    # -- napari's own controls of the layers -------------------------------------------------------

    def _follow(self, layers: list[Layer], *, follow: bool) -> None:
        """Follow, or no longer, what napari's own controls set."""
        for layer in layers:
            for name, react in (
                ("contrast_limits", self._on_style),
                ("colormap", self._on_style),
                ("gamma", self._on_style),
                ("opacity", self._on_style),
                ("visible", self._on_eye),
                ("name", self._on_name),
            ):
                emitter = getattr(layer.events, name)
                (emitter.connect if follow else emitter.disconnect)(react)

    @contextmanager
    def _setting_layers(self) -> Iterator[None]:
        """Tell own changes of the layers from those by napari's controls."""
        self._drawing = True
        try:
            yield
        finally:
            self._drawing = False

    def _on_style(self, event: Any) -> None:
        """Display the colours that were set in napari's own controls of the chosen layer."""
        layer = self.layer
        if self._drawing or self.image is None or layer is None or event.source is not layer:
            return
        if event.type == "colormap":
            if layer.colormap.same_colors(self.image.colormap):
                return  # napari's own list of colormaps sets it again
            self.settings = replace(self.settings, palette=layer.colormap)
        self.image = follow_layer(self.image, layer)
        self._draw(new_scores=False, new_palette=event.type == "colormap")

    def _on_eye(self, event: Any) -> None:
        """Choose a prediction that is made visible; say so if the chosen one is hidden."""
        if self._drawing:
            return
        layer = event.source
        if layer.visible and layer is not self.layer:
            self.choose(self._first_source(layer))
        else:
            self._caption()
            self.restyled.emit()

    def _on_name(self, event: Any) -> None:
        self.choose(*self._list_sources())

    @property
    def hidden(self) -> bool:
        """Whether the chosen prediction's layer is not visible."""
        layer = self.layer
        return layer is not None and not (layer.visible and layer.opacity > 0)

    @property
    def layer(self) -> Image | None:
        """The layer of the chosen source."""
        for layer, found in self._listed:
            if self.source is not None and found is self.source.prediction:
                return layer
        return None

    @property
    def pyramid(self) -> Pyramid | None:
        """The slide from which the chosen prediction was made, else the topmost."""
        found = self._slides
        if self.source is not None:
            prediction = self.source.prediction
            found = [each for each in found if not find_mismatch(prediction, each)] or found
        return found[-1] if found else None

    @property
    def forced(self) -> bool:
        """Whether the chosen prediction lies over a slide from which it was not made."""
        slide = self.pyramid
        if self.source is None or slide is None:
            return False
        return find_mismatch(self.source.prediction, slide) is not None

    @property
    def cautions(self) -> tuple[str, ...]:
        """What to know of where the chosen prediction lies, one phrase each."""
        if self.source is None:
            return ()
        prediction, slide = self.source.prediction, self.pyramid
        found = [FORCED] if self.forced else []
        if slide is not None and not (self.forced or prediction.slide.identified):
            found.append(describe_unchecked(prediction, slide.slide.mpp_of_file))
        if not self.is_placed:
            found.append(NOT_PLACED)
        return tuple(found)

    @property
    def is_placed(self) -> bool:
        """Whether it is known where the patches of the chosen prediction lie."""
        return self.source is not None and self.source.prediction.grid.places != "unknown"

    @property
    def mpp(self) -> Mpp | None:
        """(x, y) µm per level-0 pixel of the chosen prediction; None without one."""
        if self.source is None:
            return None
        return self.source.prediction.slide.mpp_x, self.source.prediction.slide.mpp_y

    # -- displayed scores -------------------------------------------------------------------------

    def choose(self, source: ScoreSource | None, subtracted: ScoreSource | None = None) -> None:
        """Display a source's scores, or their difference to another's; hide the other layers."""
        if source is None or self.source is None or not source.is_of(self.source):
            self._lookup = None
            self.patch = -1
        self.source, self.subtracted = source, subtracted
        if source is not None:
            self._lookup = self._lookup or PatchLookup(source.prediction.grid)
            if self.settings.class_name not in (None, *source.prediction.class_names):
                self.settings = replace(self.settings, class_name=None)
            with self._setting_layers():
                for layer, found in self._listed:
                    layer.visible = found is source.prediction
            self.viewer.layers.selection = {self.layer}  # napari shows its controls
            self._fit_slide()
        self._draw(new_scores=True)

    def show(self, **changes: Any) -> None:
        """Change attributes of `settings`, such as `threshold=0.5`."""
        old, self.settings = self.settings, replace(self.settings, **changes)
        changed = {name for name in changes if getattr(old, name) != getattr(self.settings, name)}
        self._draw(
            new_scores=not changed.isdisjoint(("score", "scale", "class_name")),
            new_palette="palette" in changed,
        )

    def _draw(self, *, new_scores: bool, new_palette: bool = True) -> None:
        layer, source = self.layer, self.source
        if source is None or layer is None:
            self.scores = self.heatmap = self.image = None
        else:
            if new_scores or self.scores is None:
                self.scores = self._compute_scores(source)
                self.heatmap = (
                    rasterize_scores(source.prediction.grid, self.scores)
                    if self.is_placed
                    else None
                )
            self.image = self._build_image(layer, new_scores, new_palette)
            with self._setting_layers():
                update_layer(layer, self.image)
            bar = layer.colorbar
            bar.box, bar.box_color, bar.color, bar.visible = True, _BACKGROUND, "black", True
        self._caption()
        (self.changed if new_scores else self.restyled).emit()

    def _compute_scores(self, source: ScoreSource) -> PatchScores:
        if self.subtracted is not None:
            try:
                return subtract_scores(source, self.subtracted, self.settings)
            except UsageError as error:
                show_warning(f"{self.subtracted.name} cannot be subtracted: {error}")
                self.subtracted = None
        return compute_scores(source, self.settings)

    def _build_image(self, layer: Image, new_scores: bool, new_palette: bool) -> HeatmapImage:
        """Build the image; a threshold alone takes no pass over the values."""
        old, threshold = self.image, self.settings.threshold
        if old is not None and not new_scores and not new_palette:
            return replace(old, threshold=threshold)
        palette = self.settings.palette
        if self.heatmap is not None:
            image = build_heatmap_image(self.heatmap, palette, threshold)
        else:
            assert self.scores is not None
            image = build_unplaced_image(self.scores, palette, threshold)
        if old is not None and not new_scores:  # the same array: no new upload
            image = replace(image, values=old.values, limits=old.limits)
        return replace(image, gamma=layer.gamma, opacity=layer.opacity)

    def _caption(self) -> None:
        """Write on the canvas what it shows, so that screenshots are self-explanatory."""
        text = self.viewer.canvas.overlays.text
        text.visible = False
        if self.source is not None and self.image is not None and not self.hidden:
            facts = self.describe()[1:] if self.subtracted is not None else self.describe()
            lines = [
                line
                for each in (*facts, self.image.label, *self.cautions)
                for line in wrap(each, _CAPTION_LETTERS)
            ]
            blank = [""] * (len(lines) // _LINES_PER_BLANK)
            text.text = "\n".join(
                f"{line}\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}" for line in (*blank, *lines)
            )
            text.position, text.color = "bottom_left", "black"
            text.font_size = _CAPTION_POINTS
            text.box, text.box_color = True, _BACKGROUND
            text.visible = True  # last: napari then measures the box

    def _fit_slide(self) -> None:
        """Give a slide without a resolution that of its prediction."""
        for layer in self.viewer.layers:
            pyramid = pyramid_of(layer)
            if pyramid is not None and pyramid is self.pyramid and self.mpp is not None:
                placed = frame(self.mpp)
                layer.scale, layer.units = placed["scale"], placed["units"]

    # -- patches and places -----------------------------------------------------------------------

    def _on_mouse(self, viewer: ViewerModel, event: Any) -> None:
        self.moved.emit(self.patch_at(event.position))

    def patch_at(self, position: tuple[float, ...]) -> int:
        """Find the patch at a position of the viewer (y, x), µm; -1 for none."""
        if self._lookup is None or self.mpp is None:
            return -1
        return int(self._lookup.find(from_world([position[-2:]], self.mpp))[0])

    def describe(self) -> list[str]:
        """Say in a few lines which prediction, member or difference is chosen."""
        return describe_choice(self.source, self.subtracted) if self.source is not None else []

    def measure(self) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
        """Collect all scores of what is chosen, and the displayed ones, for tables.

        Returns
        -------
        Scores (N,) by name, NaN where there is none; and what they are, by name.
        """
        if self.source is None or self.scores is None:
            return {}, {}
        measures = measure_source(self.source, self.subtracted)
        chosen = self.source.name
        if self.subtracted is not None:
            chosen += f" minus {self.subtracted.name}"
        remarks = {
            "source": chosen,
            "prediction": "; ".join(self.describe()),
            "displayed_as": self.scores.label,
        }
        return {**measures, "displayed": self.scores.values}, remarks

    def describe_patch(self, row: int) -> str:
        """Describe a patch in three lines: its number and position, and all its scores.

        A fourth line holds the displayed difference, if one is chosen.
        """
        if self.source is None or self.mpp is None or row < 0:
            return ""
        grid, names = self.source.prediction.grid, self.source.prediction.class_names
        where = "at an unknown place"
        if self.is_placed:
            x, y = to_um(grid.coords[row] + grid.patch_size_l0 / 2, self.mpp) / 1000
            where = f"at x {x:.3f} mm, y {y:.3f} mm"
        weight, adds = self.source.attention[row], self.source.contributions[row]
        logits = ", ".join(f"{name} {add:+.3g}" for name, add in zip(names, adds, strict=True))
        return (
            f"patch {row} {where}\n"
            f"attention {weight:.3g}, {weight * len(grid):.3g}× the mean, "
            f"percentile {self.source.ranks[row]:.1f}\n"
            f"contribution to the logits: {logits}"
        ) + self._describe_difference(row)

    def _describe_difference(self, row: int) -> str:
        if self.subtracted is None or self.scores is None:
            return ""
        value = self.scores.values[row]
        text = "no patch of the other" if np.isnan(value) else f"{value:+.3g}"
        return f"\ndifference displayed: {text}"

    def go_to(self, row: int) -> None:
        """Make a patch the current one: move the view to it and draw a box around it."""
        if (
            self.source is None
            or self.mpp is None
            or not self.is_placed
            or not 0 <= row < len(self.source.prediction.grid)
        ):
            return
        self.patch = row
        grid = self.source.prediction.grid
        low = to_world(grid.coords[row], self.mpp)
        high = to_world(grid.coords[row] + grid.patch_size_l0, self.mpp)
        self._draw_box(low, high)
        camera = self.viewer.scene.camera
        camera.center = (0.0, *((low + high) / 2).tolist())
        camera.zoom = _PATCH_ON_SCREEN_PX / float((high - low).max())
        self.moved.emit(row)

    def _draw_box(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        corners = np.array([low, [low[0], high[1]], high, [high[0], low[1]]])
        selected = set(self.viewer.layers.selection)
        if _BOX in self.viewer.layers:
            self.viewer.layers.remove(_BOX)
        box = Shapes(
            corners[None],
            shape_type="rectangle",
            name=_BOX,
            edge_color=_BOX_COLOUR,
            edge_width=float((high - low).max()) * _BOX_WIDTH,
            face_color="transparent",
            units=("um", "um"),
            axis_labels=("y", "x"),
            metadata={KEY: None},
        )
        self.viewer.add_layer(box)
        self.viewer.layers.selection = selected
