"""The names that fill the patterns of the ``sample`` data set: one disjoint set of name parts for each split.

No part is in two splits, so no entity of dev or test can occur in train. ``ambiguous`` names and ``coined`` words serve
several entity types inside their split: only the sentence around such a name tells its type.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """The name parts of one split. ``ambiguous`` maps a name to the slots that it may fill."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    city: tuple[str, ...]
    country: tuple[str, ...]
    nat: tuple[str, ...]
    coined: tuple[str, ...]
    ambiguous: dict[str, tuple[str, ...]]
    theme: tuple[str, ...]
    work: tuple[str, ...]
    forms: dict[str, tuple[str, ...]]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(",") if part.strip())


def _ambiguous(text: str) -> dict[str, tuple[str, ...]]:
    """Read ``Washington=last+city`` entries."""
    return {name: tuple(slots.split("+")) for name, slots in (entry.split("=") for entry in text.split())}


# How name parts become names. <c> is a coined word, <city>, <last>, <theme> a part of that list; a bare form such as
# <c> gives a name whose words say nothing about its type.
_TRAIN_FORMS = {
    "per": _phrases("<first> <last>, <first> <last>, <first> <last>, <first> J. <last>, <first> <c>, <last>, <c>"),
    "last": _phrases("<last>, <last>, <c>"),
    "city": _phrases("<city>, <city>, <city>, Port <c>, New <c>, <c>, <c>"),
    "country": _phrases("<country>"),
    "place": _phrases("Mount <c>, Lake <c>, <c> River, <last> Street, <c> Valley, Cape <last>, <c> Islands, <c>"),
    "org": _phrases(
        "<c> Inc, <c> Holdings, <last> Motors, <last> & Sons, <c> Airlines, <last> Group, <c>, <c>, <last>"
    ),
    "team": _phrases("<city> United, <city> Rovers, <c> Athletic, <city>, <city>, <c>"),
    "school": _phrases("University of <city>, <city> University, <last> College, St. <first> School, <c>"),
    "bank": _phrases("Bank of <country>, <c> Bank, <city> Savings Bank, <last> Capital"),
    "body": _phrases("Ministry of <theme>, <city> City Council, <last> Foundation, <country> Labour Party"),
    "nat": _phrases("<nat>"),
    "event": _phrases("<last> Cup, <city> Marathon, <c> Prize, <c> Trophy, <country> Open"),
    "law": _phrases("<theme> Act, Treaty of <city>, <last> Amendment"),
    "work": _phrases("<work>, <work>, <c>"),
}

_DEV_FORMS = _TRAIN_FORMS | {
    "per": _phrases("<first> <last>, <first> <last>, <first> <c>, <first> R. <last>, <last>, <c>"),
    "city": _phrases("<city>, <city>, <city>, Fort <c>, <c>"),
    "place": _phrases("Mount <c>, <last> Avenue, <c> Bay, Lake <last>, <c> Desert, <c> River, <c>"),
    "org": _phrases("<c> Corp, <c> Industries, <last> Brothers, <last> Motors, <c> Records, <c>, <c>"),
    "team": _phrases("<city> Wanderers, <city> Tigers, <city> United, <city>, <c>"),
    "school": _phrases("University of <city>, <last> Institute, <c> Academy, <c>"),
    "bank": _phrases("Bank of <country>, <c> Capital, <last> Credit Union"),
    "body": _phrases("Department of <theme>, <city> Police, National Party of <country>"),
    "event": _phrases("<last> Cup, <city> Festival, <c> Award, <country> Grand Prix"),
    "law": _phrases("<theme> Bill, <city> Protocol, <last> Act"),
}

_TEST_FORMS = _TRAIN_FORMS | {
    "per": _phrases("<first> <last>, <first> <last>, <first> <c>, <first> T. <last>, <last>, <c>"),
    "city": _phrases("<city>, <city>, <city>, San <c>, <c>"),
    "place": _phrases("Mount <c>, <last> Road, <c> Gulf, Lake <c>, <c> Forest, <c> Mountains, <c>"),
    "org": _phrases("<c> Ltd, <c> Systems, <last> Partners, <c> Holdings, <last> & Daughters, <c>, <c>"),
    "team": _phrases("<city> Rangers, <city> Albion, <city> United, <city>, <c>"),
    "school": _phrases("University of <city>, <last> Polytechnic, <c> College, <c>"),
    "bank": _phrases("Bank of <country>, <c> Trust, <last> Bank"),
    "body": _phrases("Office for <theme>, <city> Orchestra, <country> Green Party"),
    "event": _phrases("<last> Cup, <city> Biennale, <c> Medal, <country> Masters"),
    "law": _phrases("<theme> Pact, <city> Accord, <last> Bill"),
}

NAMES: dict[str, Names] = {
    "train": Names(
        first=_words(
            "Anna Peter Maria George Helen Robert Laura Thomas Sofia Daniel Ingrid Carlos Fatima Ahmed Yuki Ivan Claire"
            " Martin Priya Samuel Rosa Victor Nadia Oscar Julia Kofi Elena Marcus Beatrice Hassan Mei Andrew Lucia"
            " Stefan Grace Pavel Amara Hugo Miriam Kenji Teresa Frank Olga Rajesh"
        ),
        last=_words(
            "Miller Garcia Novak Schmidt Johansson Tanaka Okafor Rossi Petrov Andersen Hughes Kowalski Dubois Mendes"
            " Sharma Walker Fischer Bianchi Larsen Nakamura Osei Moreau Kaplan Vargas Lindgren Farouk Keller Thornton"
            " Ibrahim Costa Sullivan Baptiste Horvath Wagner Castillo Pereira Eriksen Gallagher Romano Weiss"
        ),
        city=_words(
            "London Berlin Madrid Tokyo Cairo Boston Chicago Warsaw Vienna Mumbai Lagos Toronto Lisbon Seoul Athens"
            " Nairobi Dublin Prague Oslo Istanbul Bogota Manila Leeds Hamburg Naples Seattle Atlanta Karachi Havana"
            " Bristol Lyon Antwerp Casablanca Osaka"
        ),
        country=_words(
            "Germany Brazil Japan Egypt Poland Canada India Nigeria Portugal Mexico Norway Turkey Kenya Vietnam Greece"
            " Ireland Argentina Iran Indonesia Ukraine"
        ),
        nat=_words(
            "German Brazilian Japanese Egyptian Polish Canadian Indian Nigerian Portuguese Mexican Norwegian Turkish"
            " Kenyan Vietnamese Greek Irish Argentine Iranian"
        ),
        coined=_words(
            "Brackenholt Velmora Tarsick Quendale Oristan Malveny Hesketh Durnovar Pellworth Zanteri Kolvane Ashgrove"
            " Merridan Torvald Lunsford Castrel Ravensby Ondara Fenwick Sarmento Bellweather Drummore Kestrin Almora"
            " Wexcombe Tolland Norvik Harrowby Isenburg Calloway"
        ),
        ambiguous=_ambiguous(
            "Jackson=last+city Florence=last+city Ford=last+org Denver=last+city+team Hamilton=last+city"
            " Chelsea=last+team+city Victoria=last+place Dell=last+org Everton=last+team Montana=last+place"
            " Amazon=org+place Valencia=city+team+last Orlando=last+city+team Siemens=last+org"
        ),
        theme=_words("Finance Agriculture Education Transport Justice Fisheries"),
        work=_phrases(
            """The Silent Harbour, Winter Letters, A Thousand Doors, Midnight in the Orchard, Paper Lions,
            The Last Ferry, Songs for Nobody, Dust and Honey, The Clockmaker 's Son, Falling Upwards,
            Blue Kitchen, Ten Days of Rain,
            The Glass Meadow, Never Again Tomorrow, Iron Gardens, How to Leave Quietly, Salt Road, Strangers at Noon"""
        ),
        forms=_TRAIN_FORMS,
    ),
    "dev": Names(
        first=_words(
            "Emma William Chiara Jacob Aisha Erik Carmen Dmitri Nora Luis Hannah Omar Sakura Patrick Leila Simon Greta"
            " Tomas Chloe Vikram Edward Zoe"
        ),
        last=_words(
            "Johnson Fernandez Svoboda Becker Nilsson Suzuki Mensah Ferrari Ivanov Jensen Murphy Nowak Laurent Almeida"
            " Gupta Turner Hoffman Conti Haugen Watanabe Haddad Delgado Brennan Chowdhury"
        ),
        city=_words(
            "Munich Barcelona Kyoto Philadelphia Krakow Budapest Delhi Accra Vancouver Porto Glasgow Marseille Helsinki"
            " Baghdad Lima Jakarta Stockholm Detroit Rotterdam Milan"
        ),
        country=_words("France Chile China Morocco Hungary Australia Pakistan Ghana Spain Peru Sweden Thailand"),
        nat=_words(
            "French Chilean Chinese Moroccan Hungarian Australian Pakistani Ghanaian Spanish Peruvian Swedish Thai"
        ),
        coined=_words(
            "Thornbury Casteval Morwenna Ulverston Grantham Selvane Ostrava Brynmor Kirkwall Halloran Duvalle Pemberly"
            " Vorstadt Lyndale Arkwright Soreno Wychwood Galbraith"
        ),
        ambiguous=_ambiguous(
            "Washington=last+city+place Jordan=last+country Houston=last+city+team Austin=last+city Paris=last+city"
            " Chrysler=last+org Arsenal=team Madison=last+city Benz=last+org Phoenix=city+team Carolina=last+place"
        ),
        theme=_words("Health Energy Labour Defence"),
        work=_phrases(
            """The Orange Staircase, Letters to a Stranger, Broken Compass, Where the Geese Sleep, Velvet Thunder,
            A Map of Small Hours, The Beekeeper 's Wife, Summer Without End, Half a Moon, The Quiet Parade"""
        ),
        forms=_DEV_FORMS,
    ),
    "test": Names(
        first=_words(
            "Sarah James Giulia Adam Khadija Lars Isabel Sergei Alice Diego Esther Yusuf Haruki Michael Samira Felix"
            " Astrid Mateo Louise Arjun Henry Ruth"
        ),
        last=_words(
            "Williams Ramirez Dvorak Schneider Karlsson Yamamoto Boateng Ricci Volkov Nielsen Kelly Zielinski Bernard"
            " Carvalho Reddy Parker Zimmermann Greco Solberg Kobayashi Mansour Ortega Donnelly Banerjee"
        ),
        city=_words(
            "Rome Sevilla Nagoya Baltimore Gdansk Bucharest Bangalore Dakar Montreal Geneva Edinburgh Toulouse"
            " Copenhagen Tehran Santiago Bangkok Gothenburg Cleveland Brussels Turin"
        ),
        country=_words(
            "Italy Colombia Korea Tunisia Romania Scotland Bangladesh Senegal Belgium Bolivia Denmark Malaysia"
        ),
        nat=_words(
            "Italian Colombian Korean Tunisian Romanian Scottish Bangladeshi Senegalese Belgian Bolivian Danish"
            " Malaysian"
        ),
        coined=_words(
            "Stannard Corvella Ruthven Aldermere Penrith Vasari Holbrook Tremaine Eskdale Montrell Dunleavy Jorvik"
            " Sandoval Whitmore Lorimar Barrowden Kelvedon Orsino"
        ),
        ambiguous=_ambiguous(
            "Lincoln=last+city+team Sydney=last+city Charlotte=last+city Georgia=last+country Boeing=last+org"
            " Dallas=last+city+team Porsche=last+org Kent=last+place Celtic=team Alexandria=last+city Cook=last+place"
        ),
        theme=_words("Trade Culture Housing Science"),
        work=_phrases(
            """The Lighthouse Tax, An Ordinary Storm, Crimson Ledger, When Rivers Forget, The Second Violin,
            Ghost Season, Nine Empty Chairs, A Fire in October, The Cartographer 's Daughter, Under Cheap Stars"""
        ),
        forms=_TEST_FORMS,
    ),
}
