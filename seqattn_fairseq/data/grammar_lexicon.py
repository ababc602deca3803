"""Words of the quickstart grammar: German entries with their English counterparts.

Every German word has exactly one translation here, so that the translation of a sentence is a
function of the sentence and a model can learn it completely.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# kind -> gender (m, f, n), singular, plural, English singular, English plural.
# A hyphen stands for no plural; an asterisk the weak declension (dem Jungen).
_NOUNS = {
    "person": """
        m Mann Männer man men             f Frau Frauen woman women
        n Kind Kinder child children      m Junge* Jungen boy boys
        n Mädchen Mädchen girl girls      m Lehrer Lehrer teacher teachers
        m Arzt Ärzte doctor doctors       m Nachbar* Nachbarn neighbour neighbours
        m Bäcker Bäcker baker bakers      m Student* Studenten student students
        f Köchin Köchinnen cook cooks     m Freund Freunde friend friends
        m Bauer* Bauern farmer farmers    f Malerin Malerinnen painter painters
        m Gast Gäste guest guests         f Richterin Richterinnen judge judges""",
    "family": """
        m Vater - father -                f Mutter - mother -
        m Bruder Brüder brother brothers  f Schwester Schwestern sister sisters
        m Onkel Onkel uncle uncles        f Tante Tanten aunt aunts
        m Sohn Söhne son sons             f Tochter Töchter daughter daughters""",
    "animal": """
        m Hund Hunde dog dogs             f Katze Katzen cat cats
        n Pferd Pferde horse horses       f Kuh Kühe cow cows
        m Vogel Vögel bird birds          f Ziege Ziegen goat goats""",
    "fruit": """
        m Apfel Äpfel apple apples        f Birne Birnen pear pears
        f Orange Orangen orange oranges   n Ei Eier egg eggs
        f Tomate Tomaten tomato tomatoes  n Brötchen Brötchen roll rolls""",
    "food": """
        n Brot - bread -                  m Käse - cheese -
        m Reis - rice -                   m Honig - honey -""",
    "drink": """
        n Wasser - water -                f Milch - milk -
        m Tee - tea -                     m Kaffee - coffee -""",
    "text": """
        n Buch Bücher book books          f Zeitung Zeitungen newspaper newspapers
        m Brief Briefe letter letters     n Gedicht Gedichte poem poems""",
    "vehicle": """
        n Auto Autos car cars             n Fahrrad Fahrräder bicycle bicycles
        n Boot Boote boat boats           n Motorrad Motorräder motorcycle motorcycles""",
    "transport": """
        m Zug Züge train trains           m Bus Busse bus buses""",
    "device": """
        f Lampe Lampen lamp lamps         n Radio Radios radio radios
        m Computer Computer computer computers""",
    "object": """
        m Schlüssel Schlüssel key keys    n Messer Messer knife knives
        m Ball Bälle ball balls           n Bild Bilder picture pictures""",
    "vessel": """
        f Flasche Flaschen bottle bottles f Tasche Taschen bag bags
        m Teller Teller plate plates      n Glas Gläser glass glasses""",
    "furniture": """
        m Tisch Tische table tables       m Stuhl Stühle chair chairs
        n Bett Betten bed beds            f Bank Bänke bench benches""",
    "opening": """
        f Tür Türen door doors            n Fenster Fenster window windows""",
    "clothing": """
        m Mantel Mäntel coat coats        f Jacke Jacken jacket jackets
        m Schuh Schuhe shoe shoes         m Hut Hüte hat hats
        n Hemd Hemden shirt shirts        n Kleid Kleider dress dresses""",
    "building": """
        n Haus Häuser house houses        m Turm Türme tower towers
        f Brücke Brücken bridge bridges   n Schloss Schlösser castle castles""",
    "room": """
        n Zimmer Zimmer room rooms        f Küche Küchen kitchen kitchens
        n Büro Büros office offices       m Keller Keller cellar cellars""",
    "task": """
        f Aufgabe Aufgaben task tasks     n Spiel Spiele game games
        n Wort Wörter word words          m Satz Sätze sentence sentences
        f Regel Regeln rule rules         m Plan Pläne plan plans""",
}

# kind -> modifiers and heads that combine freely; the head gives gender and plural.
_COMPOUNDS = {
    "furniture": (
        "Holz=wooden Küchen=kitchen Garten=garden Kinder=children's",
        "m tisch tische table tables      m stuhl stühle chair chairs f bank bänke bench benches",
    ),
    "soup": (
        "Gemüse=vegetable Tomaten=tomato Kartoffel=potato Fisch=fish Linsen=lentil",
        "f suppe suppen soup soups",
    ),
    "cake": (
        "Apfel=apple Kirsch=cherry Schokoladen=chocolate Nuss=nut",
        "m kuchen kuchen cake cakes       f torte torten tart tarts",
    ),
    "text": (
        "Liebes=love Kriminal=crime Reise=travel",
        "m roman romane novel novels      f geschichte geschichten story stories",
    ),
    "opening": (
        "Keller=cellar Garten=garden Küchen=kitchen",
        "f tür türen door doors           n fenster fenster window windows",
    ),
    "clothing": (
        "Winter=winter Sommer=summer Leder=leather",
        "m mantel mäntel coat coats       f jacke jacken jacket jackets",
    ),
}

# infinitive (separable prefix before a plus), third person singular, participle, English verb
# (| before a particle that a pronoun precedes: pick him up), English past, kinds of object.
# Marks: sein = perfect with sein; simple = no English progressive; clock = goes with a time.
_TRANSITIVE = """
    lesen liest gelesen read read text
    schreiben schreibt geschrieben write wrote text
    kaufen kauft gekauft buy bought text,fruit,cake,clothing,furniture,vehicle,food,drink,object
    verkaufen verkauft verkauft sell sold vehicle,furniture,clothing,fruit,animal,text
    essen isst gegessen eat ate fruit,cake,soup,food clock
    trinken trinkt getrunken drink drank drink
    kochen kocht gekocht cook cooked soup clock
    backen backt gebacken bake baked cake
    suchen sucht gesucht look_for looked object,vessel,animal,clothing,person,text
    finden findet gefunden find found object,vessel,animal,clothing,text simple
    sehen sieht gesehen see saw person,family,animal,building,transport simple
    besuchen besucht besucht visit visited person,family
    treffen trifft getroffen meet met person,family clock
    fragen fragt gefragt ask asked person,family
    lieben liebt geliebt love loved person,family,animal simple
    kennen kennt gekannt know knew person,family simple
    brauchen braucht gebraucht need needed object,vessel,clothing,vehicle,device,furniture simple
    haben hat gehabt have had object,vessel,animal,vehicle,text,fruit,clothing,device simple
    vergessen vergisst vergessen forget forgot object,vessel,clothing,text,task simple
    reparieren repariert repariert repair repaired vehicle,device,furniture,opening
    waschen wäscht gewaschen wash washed vehicle,clothing,fruit,animal
    putzen putzt geputzt clean cleaned opening,room,vehicle
    malen malt gemalt paint painted animal,building,person,fruit
    füttern füttert gefüttert feed fed animal clock
    bauen baut gebaut build built building,furniture
    holen holt geholt fetch fetched object,vessel,drink,furniture,food
    auf+machen macht aufgemacht open opened opening
    zu+machen macht zugemacht close closed opening
    ab+schließen schließt abgeschlossen lock locked opening
    an+rufen ruft angerufen call called person,family clock
    ein+laden lädt eingeladen invite invited person,family
    ab+holen holt abgeholt pick|up picked person,family clock
    auf+räumen räumt aufgeräumt tidy|up tidied room
    an+ziehen zieht angezogen put|on put clothing
    aus+ziehen zieht ausgezogen take|off took clothing
    ein+schalten schaltet eingeschaltet turn|on turned device clock
    aus+schalten schaltet ausgeschaltet turn|off turned device clock
    weg+werfen wirft weggeworfen throw|away threw object,vessel,text,clothing,fruit
    mit+bringen bringt mitgebracht bring|along brought fruit,cake,animal,object,vessel,family,person
    vor+bereiten bereitet vorbereitet prepare prepared task,soup,room"""
_DATIVE = """
    helfen hilft geholfen help helped person,family
    danken dankt gedankt thank thanked person,family
    antworten antwortet geantwortet answer answered person,family
    gratulieren gratuliert gratuliert congratulate congratulated person,family
    folgen folgt gefolgt follow followed person,animal,family sein
    vertrauen vertraut vertraut trust trusted person,family simple
    zu+hören hört zugehört listen_to listened person,family"""
_DITRANSITIVE = """
    geben gibt gegeben give gave object,vessel,fruit,text,clothing,drink,food
    zeigen zeigt gezeigt show showed object,vessel,building,text,animal,room,vehicle
    schicken schickt geschickt send sent text
    bringen bringt gebracht bring brought drink,soup,cake,text,object,vessel
    leihen leiht geliehen lend lent vehicle,text,clothing,device"""
# the English recipient follows the object: read the book to the child
_TO_RECIPIENT = """
    vor+lesen liest vorgelesen read read text to
    erklären erklärt erklärt explain explained task to"""
_INTRANSITIVE = """
    schlafen schläft geschlafen sleep slept -
    arbeiten arbeitet gearbeitet work worked -
    lachen lacht gelacht laugh laughed -
    weinen weint geweint cry cried -
    singen singt gesungen sing sang -
    tanzen tanzt getanzt dance danced -
    spielen spielt gespielt play played -
    schwimmen schwimmt geschwommen swim swam - sein
    warten wartet gewartet wait waited -
    lernen lernt gelernt study studied -
    auf+stehen steht aufgestanden get_up got - sein,clock
    auf+wachen wacht aufgewacht wake_up woke - sein,clock
    ein+schlafen schläft eingeschlafen fall_asleep fell - sein,clock
    ein+kaufen kauft eingekauft go_shopping went -
    fern+sehen sieht ferngesehen watch_television watched -
    auf+hören hört aufgehört stop stopped - clock
    zurück+kommen kommt zurückgekommen come_back came - sein,clock"""
_MOTION = """
    gehen geht gegangen go went - sein
    fahren fährt gefahren drive drove - sein
    laufen läuft gelaufen run ran - sein"""
_PLACING = """
    legen legt gelegt put put object,text,clothing
    stellen stellt gestellt place placed vessel,device"""
_POSTURE = """
    liegen liegt gelegen lie lay -
    stehen steht gestanden stand stood -"""
_ARRIVAL = """
    an+kommen kommt angekommen arrive arrived - sein,clock
    ab+fahren fährt abgefahren leave left - sein,clock"""
_TELLING = """
    sagen sagt gesagt say said - simple
    glauben glaubt geglaubt think thought - simple
    hoffen hofft gehofft hope hoped - simple
    wissen weiß gewusst know knew - simple"""

# German, comparative, English, English comparative, kinds it describes.
_ADJECTIVES = """
    alt älter old older person,animal,text,vehicle,device,furniture,clothing,building,object,vessel
    neu neuer new newer text,vehicle,device,furniture,clothing,object,vessel,task
    klein kleiner small smaller person,animal,fruit,vehicle,furniture,building,room,object,vessel
    groß größer big bigger animal,fruit,vehicle,furniture,building,room,object,vessel,opening,cake
    schön schöner beautiful more_beautiful building,clothing,text,animal,room,task,object,vessel
    jung jünger young younger person,animal
    klug klüger clever cleverer person,animal
    freundlich freundlicher friendly friendlier person,family
    stark stärker strong stronger person,animal,family
    müde - tired - person,animal,family
    krank - ill - person,animal,family
    rot - red - fruit,vehicle,clothing,object,vessel,device
    blau - blue - vehicle,clothing,object,vessel,opening,furniture
    grün - green - clothing,opening,object,vessel,fruit,furniture
    billig billiger cheap cheaper text,vehicle,clothing,furniture,device,fruit
    schwer schwerer heavy heavier furniture,object,vessel,device
    schnell schneller fast faster vehicle,transport
    langsam langsamer slow slower vehicle,transport,device
    warm wärmer warm warmer soup,drink,cake,room,clothing
    kalt kälter cold colder soup,drink,room
    frisch frischer fresh fresher fruit,food,cake,drink
    süß süßer sweet sweeter fruit,cake
    lang länger long longer text,task,transport
    interessant interessanter interesting more_interesting text,task,building
    spannend spannender exciting more_exciting text,task
    schmutzig schmutziger dirty dirtier clothing,room,vehicle,opening,object"""
_STATES = "müde=tired krank=ill glücklich=happy traurig=sad hungrig=hungry nervös=nervous"

# gender, noun, preposition and English for "where", the same for "where to".
_PLACES = """
    m Garten Gärten garden gardens | in in in into
    m Park Parks park parks | in in in to
    f Schule Schulen school schools | in at in to
    f Stadt Städte city cities | in in in to
    m Markt Märkte market markets | auf at auf to
    m Bahnhof Bahnhöfe station stations | an at zu to
    m See Seen lake lakes | an at an to
    n Museum Museen museum museums | in in in to
    m Wald Wälder forest forests | in in in into
    n Dorf Dörfer village villages | in in in to
    f Kirche Kirchen church churches | in in in into
    n Kino Kinos cinema cinemas | in at in to
    n Krankenhaus Krankenhäuser hospital hospitals | in in in to
    f Bibliothek Bibliotheken library libraries | in in in to
    f Post - post_office - | in at zu to
    f Insel Inseln island islands | auf on auf to"""


@dataclass(frozen=True)
class Noun:
    """A German noun and its translation; ``plural`` is empty where none is used."""

    gender: str
    singular: str
    plural: str
    english: str
    english_plural: str
    weak: bool = False


@dataclass(frozen=True)
class Verb:
    """A German verb and its translation; ``participle`` contains the separable ``prefix``."""

    prefix: str
    infinitive: str
    third: str
    participle: str
    english: str
    english_past: str
    objects: tuple[str, ...] = ()
    marks: frozenset[str] = frozenset()

    @property
    def auxiliary(self) -> str:
        """Infinitive of the auxiliary of the perfect tense."""
        return "sein" if "sein" in self.marks else "haben"


@dataclass(frozen=True)
class Adjective:
    """An adjective; ``comparative`` is empty where none is used."""

    german: str
    comparative: str
    english: str
    english_comparative: str
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A noun with its prepositions: (German, English) for "where" and for "where to"."""

    noun: Noun
    where: tuple[str, str]
    where_to: tuple[str, str]


def _field(text: str) -> str:
    return "" if text == "-" else text.replace("_", " ")


def _rows(table: str, width: int) -> Iterator[list[str]]:
    """Split a table into rows of ``width`` words."""
    words = table.split()
    for start in range(0, len(words), width):
        yield words[start : start + width]


def _noun(row: list[str]) -> Noun:
    gender, singular, *rest = row
    plural, english, english_plural = map(_field, rest)
    weak = singular.endswith("*")
    return Noun(gender, singular.rstrip("*"), plural, english, english_plural, weak)


def _compounds(modifiers: str, heads: str) -> Iterator[Noun]:
    for pair in modifiers.split():
        german, english = pair.split("=")
        for head in map(_noun, _rows(heads, 5)):
            yield Noun(
                head.gender,
                german + head.singular,
                german + head.plural,
                f"{english} {head.english}",
                f"{english} {head.english_plural}",
            )


def _verb(line: str) -> Verb:
    infinitive, third, participle, english, past, objects, *marks = line.split()
    prefix, _, stem = infinitive.rpartition("+")
    kinds = tuple(_field(objects).split(",")) if _field(objects) else ()
    mark_set = frozenset(",".join(marks).split(",")) if marks else frozenset()
    return Verb(prefix, stem, third, participle, _field(english), past, kinds, mark_set)


def _verbs(table: str) -> tuple[Verb, ...]:
    return tuple(map(_verb, table.strip().splitlines()))


def _adjective(line: str) -> Adjective:
    german, comparative, english, english_comparative, kinds = map(_field, line.split())
    return Adjective(german, comparative, english, english_comparative, tuple(kinds.split(",")))


def _state(pair: str) -> Adjective:
    german, english = pair.split("=")
    return Adjective(german, "", english, "")


def _place(line: str) -> Place:
    noun, prepositions = line.split("|")
    german, english, german_to, english_to = prepositions.split()
    return Place(_noun(noun.split()), (german, english), (german_to, english_to))


def _all_nouns() -> dict[str, tuple[Noun, ...]]:
    simple = {kind: tuple(map(_noun, _rows(table, 5))) for kind, table in _NOUNS.items()}
    compound = {kind: tuple(_compounds(*parts)) for kind, parts in _COMPOUNDS.items()}
    kinds = [*simple, *(kind for kind in compound if kind not in simple)]
    return {kind: simple.get(kind, ()) + compound.get(kind, ()) for kind in kinds}


NOUNS = _all_nouns()
TRANSITIVE = _verbs(_TRANSITIVE)
DATIVE = _verbs(_DATIVE)
DITRANSITIVE = _verbs(_DITRANSITIVE)
TO_RECIPIENT = _verbs(_TO_RECIPIENT)
INTRANSITIVE = _verbs(_INTRANSITIVE)
MOTION = _verbs(_MOTION)
PLACING = _verbs(_PLACING)
POSTURE = _verbs(_POSTURE)
ARRIVAL = _verbs(_ARRIVAL)
TELLING = _verbs(_TELLING)
ADJECTIVES = tuple(map(_adjective, _ADJECTIVES.strip().splitlines()))
STATES = tuple(map(_state, _STATES.split()))
PLACES = tuple(map(_place, _PLACES.strip().splitlines()))
BE = Verb("", "sein", "ist", "gewesen", "be", "was", (), frozenset({"sein", "simple"}))
HAVE = next(verb for verb in TRANSITIVE if verb.infinitive == "haben")

# German infinitive and preterite stem, English modal: present, past; a modal with "to" takes
# do-support ("does not have to"), one with "be" is conjugated.
MODALS = {
    "können": ("konnte", "can", "could"),
    "müssen": ("musste", "have to", "had to"),
    "wollen": ("wollte", "want to", "wanted to"),
    "dürfen": ("durfte", "be allowed to", "was allowed to"),
}
# singular forms of the present: ich/er, du
MODAL_PRESENT = {
    "können": ("kann", "kannst"),
    "müssen": ("muss", "musst"),
    "wollen": ("will", "willst"),
    "dürfen": ("darf", "darfst"),
}
