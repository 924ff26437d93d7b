from __future__ import annotations

from vildcli.labelling.sample import draw_sample
from vildcli.labelling.sources import FoundImage

IMAGES = [FoundImage("photos", f"{i:04d}.jpg", 1, 1) for i in range(1000)]


def test_draw_sample__is_of_the_size_asked_for() -> None:
    assert len(draw_sample(IMAGES, 50)) == 50
    assert len(draw_sample(IMAGES, 2000)) == 1000


def test_draw_sample__a_larger_one_holds_the_smaller_one() -> None:
    assert draw_sample(IMAGES, 50) < draw_sample(IMAGES, 60)


def test_draw_sample__another_seed_chooses_others() -> None:
    first, second = draw_sample(IMAGES, 100), draw_sample(IMAGES, 100, seed=1)
    assert len(first & second) < 40  # 10 would be expected


def test_draw_sample__does_not_depend_on_the_order() -> None:
    assert draw_sample(IMAGES[::-1], 50) == draw_sample(IMAGES, 50)


def test_draw_sample__is_spread_over_the_images() -> None:
    places = [IMAGES.index(FoundImage(*key, 1, 1)) for key in draw_sample(IMAGES, 200)]
    assert all(25 <= sum(p // 250 == quarter for p in places) <= 80 for quarter in range(4))
