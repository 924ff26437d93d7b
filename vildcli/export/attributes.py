"""What the attributes of labels are called where every one of them is a field of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from vildcli.export.geometry import short
from vildcli.export.selection import Selection
from vildcli.labelling.records import LabelRecord

# Fields and methods that FiftyOne's Detection has, and the fields that exports give it.
_FIFTYONE = """
attributes bounding_box clean clear_field confidence copy delete_attribute export_mask fancy_repr
field_names field_to_mongo field_to_python from_dict from_json from_mask get_attribute_value
get_field get_mask has_attribute has_field has_mask id import_mask index instance instance_id
iter_attributes iter_fields label mask mask_path merge my_metaclass rotation set_attribute_value
set_field tags to_dict to_json to_mongo to_polyline to_segmentation to_shapely validate
"""
_OWN = """
category_id category_score image_score is_base objectness score text_score vildcli_label
"""
DETECTION_FIELDS = frozenset(_FIFTYONE.split() + _OWN.split())

Fields = dict[str, tuple[str, str, str]]


def attribute_fields(
    sets: Iterable[str], taken: Iterable[str], *, identifiers: bool = False
) -> Fields:
    """The fields of each attribute set: `colour`, `colour_score`, `colour_joint`.

    A set that is called as a field of those taken is `attribute_…`.

    Args:
        identifiers: whether a field can hold letters, digits and `_` only, a letter first.
    """
    used = set(taken)
    fields: Fields = {}
    for name in sets:
        key = re.sub(r"\W", "_", name) if identifiers else name
        while used & {key, f"{key}_score", f"{key}_joint"} or (
            identifiers and not key[:1].isalpha()
        ):
            key = f"attribute_{key}"
        fields[name] = (key, f"{key}_score", f"{key}_joint")
        used |= set(fields[name])
    return fields


def attribute_values(
    selection: Selection, label: LabelRecord, fields: Fields
) -> Iterator[tuple[str, str | float]]:
    """The fields of a label: the best value of each set, its score and the joint one.

    Raises:
        DataError: a set is not in the run's vocabulary.
    """
    for a in selection.attributes(label):
        yield from zip(fields[a.set], (a.name, short(a.score), short(a.joint)), strict=True)
