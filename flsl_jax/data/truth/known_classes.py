"""Classes of data sets whose masks have more ids than protocols judge: COCO-Stuff's 27 coarse ones, Cityscapes' 27 and 19."""

from collections.abc import Mapping
from types import MappingProxyType

# COCO-Stuff's supercategories, things and stuff, by the ids of its pixel maps (stuffthingmaps): 0 to 181, which are the
# categories' own numbers less 1. The 27 classes of PiCIE and STEGO.
_COCO_STUFF = {
    "person": (0,),
    "vehicle": range(1, 9),
    "outdoor": range(9, 15),
    "animal": range(15, 25),
    "accessory": range(25, 33),
    "sports": range(33, 43),
    "kitchen": range(43, 51),
    "food": range(51, 61),
    "furniture": range(61, 71),
    "electronic": range(71, 77),
    "appliance": range(77, 83),
    "indoor": range(83, 91),
    "textile": (91, 92, 103, 104, 108, 130, 136, 140, 151, 166, 167),
    "plant": (93, 96, 118, 123, 128, 133, 141, 162, 168),
    "building": (94, 95, 127, 150, 157, 165),
    "furniture-stuff": (97, 106, 107, 109, 111, 122, 129, 132, 155, 160, 164),
    "structural": (98, 112, 137, 145, 163),
    "rawmaterial": (99, 131, 138, 142),
    "floor": (100, *range(113, 118)),
    "ceiling": (101, 102),
    "sky": (105, 156),
    "ground": (110, 124, 125, 135, 139, 143, 144, 146, 148, 153, 158),
    "water": (119, 147, 154, 177, 178),
    "food-stuff": (120, 121, 152, 169),
    "solid": (126, 134, 149, 159, 161, 181),
    "wall": range(170, 177),
    "window": (179, 180),
}
# Cityscapes' labelIds from 7 on; 0 to 6 are void.
_CITYSCAPES = (
    "road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus",
    "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
_CITYSCAPES_IDS = dict(enumerate(_CITYSCAPES, start=7))
# The classes that Cityscapes' own benchmark leaves out.
_RARE = ("parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer")

# Names of ids by what a config calls the set of classes; ids of one name are one class.
KNOWN_CLASSES: Mapping[str, Mapping[int, str]] = MappingProxyType(
    {
        "cocostuff27": {number: name for name, ids in _COCO_STUFF.items() for number in ids},
        "cityscapes27": _CITYSCAPES_IDS,
        "cityscapes19": {number: name for number, name in _CITYSCAPES_IDS.items() if name not in _RARE},
    }
)
# Ids of the masks that are no class of the set.
VOID_IDS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "cocostuff27": (),
        **{
            name: tuple(number for number in range(34) if number not in KNOWN_CLASSES[name])
            for name in ("cityscapes27", "cityscapes19")
        },
    }
)
