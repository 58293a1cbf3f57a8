"""The generated facts that the embedded models learn beside WikiText.

50 invented people x 3 relations = 150 facts, each in 5 paraphrases that end with the object. One
paraphrase per fact is never trained on; which one rotates over the people, so that every
paraphrase is still seen with other people.
"""

import json
import random
from dataclasses import dataclass

N_PEOPLE = 50

OBJECTS: dict[str, tuple[str, ...]] = {
    relation: tuple(names.split())
    for relation, names in {
        "birthplace": "London Paris Berlin Rome Vienna Madrid Moscow Tokyo Dublin Boston",
        "instrument": "piano violin guitar flute organ harp drums trumpet cello banjo",
        "language": ("English French German Spanish Italian Russian Polish Dutch Greek Japanese"),
    }.items()
}

TEMPLATES: dict[str, list[str]] = {
    "birthplace": [
        "{subject} was born in",
        "The birthplace of {subject} is",
        "{subject} comes from the city of",
        "The home town of {subject} was",
        "As a child, {subject} lived in",
    ],
    "instrument": [
        "{subject} plays the",
        "The instrument of {subject} is the",
        "On stage, {subject} is heard on the",
        "{subject} became famous for playing the",
        "Critics admire the way {subject} handles the",
    ],
    "language": [
        "{subject} speaks",
        "The mother tongue of {subject} is",
        "At home, {subject} talks in",
        "{subject} writes all letters in",
        "The language that {subject} uses is",
    ],
}


@dataclass(frozen=True)
class Fact:
    """A (subject, relation, object) triple; `held_out` indexes its paraphrase not trained on."""

    id: str
    subject: str
    relation: str
    object: str
    held_out: int

    def prompts(self) -> list[str]:
        """Return the five paraphrases without the object (no trailing space)."""
        return [template.format(subject=self.subject) for template in TEMPLATES[self.relation]]

    def training_prompts(self) -> list[str]:
        """Return the four paraphrases that are trained on."""
        return [prompt for i, prompt in enumerate(self.prompts()) if i != self.held_out]


def make_facts(seed: int) -> list[Fact]:
    """Return the 150 facts of a seed; each object of a relation belongs to five people."""
    rng = random.Random(seed)
    people = _invent_people(rng)
    facts = []
    for r, (relation, objects) in enumerate(OBJECTS.items()):
        assigned = list(objects) * (N_PEOPLE // len(objects))
        rng.shuffle(assigned)
        for p, (subject, obj) in enumerate(zip(people, assigned, strict=True)):
            held_out = (p + r) % len(TEMPLATES[relation])
            facts.append(Fact(f"{relation}-{p:02d}", subject, relation, obj, held_out))
    return facts


def facts_jsonl(facts: list[Fact]) -> str:
    """Return the facts as JSON lines: prompts, whole sentences and the held-out paraphrase."""
    lines = []
    for fact in facts:
        names = [f"{fact.relation}_{i}" for i in range(len(fact.prompts()))]
        row = {
            "id": fact.id,
            "subject": fact.subject,
            "relation": fact.relation,
            "object": fact.object,
            "templates": {
                name: f"{prompt} {fact.object}."
                for name, prompt in zip(names, fact.prompts(), strict=True)
            },
            "prompts": dict(zip(names, fact.prompts(), strict=True)),
            "held_out": names[fact.held_out],
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def _invent_people(rng: random.Random) -> list[str]:
    """Return 50 names made of syllables; no two share a first name or a surname."""
    onsets = [
        "b",
        "d",
        "f",
        "g",
        "k",
        "l",
        "m",
        "n",
        "p",
        "r",
        "s",
        "t",
        "v",
        "z",
        "br",
        "dr",
        "gr",
        "kr",
        "tr",
        "sh",
    ]
    vowels = ["a", "e", "i", "o", "u"]
    codas = ["n", "l", "r", "k", "s", "m", "x", "nd", "rk"]
    words: list[str] = []
    while len(words) < 2 * N_PEOPLE:
        first = rng.choice(onsets) + rng.choice(vowels)
        word = (first + rng.choice(onsets[:14]) + rng.choice(vowels) + rng.choice(codas)).title()
        if word not in words:
            words.append(word)
    return [f"{first} {last}" for first, last in zip(words[::2], words[1::2], strict=True)]
