"""Registry of published encoders: what each is and where its weights are, no network among it."""

from milpath.registry import (
    ai4pathology,
    bioptimus,
    histai,
    hkust,
    kaiko,
    lunit,
    mahmoodlab,
    microsoft,
    openpath,
    owkin,
    paige,
    sophont,
)
from milpath.registry.published import PublishedEncoder, VisionTransformer

__all__ = ["ENCODERS", "PublishedEncoder", "VisionTransformer"]

ENCODERS: dict[str, PublishedEncoder] = {
    encoder.name: encoder
    for encoder in (
        mahmoodlab.uni(),
        mahmoodlab.uni2_h(),
        paige.virchow(),
        paige.virchow2(),
        microsoft.prov_gigapath(),
        bioptimus.h_optimus_0(),
        bioptimus.h_optimus_1(),
        bioptimus.h0_mini(),
        owkin.phikon(),
        owkin.phikon_v2(),
        kaiko.midnight(),
        kaiko.kaiko_vits8(),
        kaiko.kaiko_vits16(),
        kaiko.kaiko_vitb8(),
        kaiko.kaiko_vitb16(),
        kaiko.kaiko_vitl14(),
        histai.hibou_b(),
        histai.hibou_l(),
        lunit.lunit_vits8(),
        lunit.lunit_vits16(),
        hkust.mstar(),
        hkust.gpfm(),
        ai4pathology.pathorchestra(),
        sophont.openmidnight(),
        openpath.openpath(),
    )
}
"""The published encoders by name."""
