"""Plain English captions for the drawings of :mod:`demo.drawings`."""

from random import Random

from demo.drawings import Scene

SIZE_WORDS = {"small": ("small", "little", "tiny"), "medium": ("",), "big": ("big", "large")}
COUNT_WORDS = {2: "two", 3: "three"}
POSITION_WORDS = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "near the top"),
    "bottom": ("at the bottom", "near the bottom"),
    "centre": ("in the centre", "in the middle", "", "", ""),
}
OPENINGS = ("", "", "", "a drawing of ", "a picture of ")
FEATURES = "with eyes and legs"


def caption(scene: Scene, rng: Random) -> str:
    """Describe a scene; the middle size has no word, and the centre often none."""
    size, place = rng.choice(SIZE_WORDS[scene.size]), rng.choice(POSITION_WORDS[scene.position])
    write = rng.choice((_sentence, _sentence, _list))
    return rng.choice(OPENINGS) + write(scene, size, place, rng)


def noun(scene: Scene, *adjectives: str) -> str:
    """The things drawn, with their number: `a small red star`, `two blue crosses`, `a heart with eyes and legs`."""
    name = scene.shape if scene.count == 1 else plural(scene.shape)
    words = " ".join(word for word in (*adjectives, scene.colour, name) if word)
    if scene.count > 1:
        return f"{COUNT_WORDS[scene.count]} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}{f' {FEATURES}' if scene.creature else ''}"


def plural(shape: str) -> str:
    """`star` gives `stars`, `cross` gives `crosses`."""
    return shape + ("es" if shape.endswith("s") else "s")


def _sentence(scene: Scene, size: str, place: str, rng: Random) -> str:
    ground = f"{rng.choice(('on', 'on', 'with'))} a {scene.background} background"
    parts = [place, ground] if rng.random() < 0.5 else [ground, place]
    return " ".join(part for part in (noun(scene, size), *parts) if part)


def _list(scene: Scene, size: str, place: str, rng: Random) -> str:
    ground = rng.choice(("on a {} background", "{} background")).format(scene.background)
    return ", ".join(part for part in (noun(scene), ground, size, place) if part)
