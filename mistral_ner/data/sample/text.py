"""The sentence patterns of the ``sample`` data set, written for it: one disjoint set for each split.

A pattern is a tokenised sentence. ``{slot}`` is an entity (``SLOT_TYPES``) or a filler (``FILLERS``); every other
word is outside of entities, capitalised or not.
"""

from __future__ import annotations

SLOT_TYPES = {
    "per": "PER",
    "last": "PER",
    "city": "LOC",
    "country": "LOC",
    "place": "LOC",
    "org": "ORG",
    "team": "ORG",
    "school": "ORG",
    "bank": "ORG",
    "body": "ORG",
    "nat": "MISC",
    "event": "MISC",
    "law": "MISC",
    "work": "MISC",
}

_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_MONTHS = "January February March April May June July August September October November December"

FILLERS: dict[str, tuple[str, ...]] = {
    "day": tuple(_DAYS.split()),
    "month": tuple(_MONTHS.split()),
    "year": ("1897", "1923", "1968", "1989", "1994", "2003", "2011", "2017", "2024"),
    "num": ("two", "3", "seven", "12", "forty", "150", "2,400", "90,000"),
    "money": ("$ 3.5 million", "900 euros", "$ 12 billion", "\u00a3 40,000", "6 %"),
    "score": ("2-1", "0-0", "3 - 2", "4:1", "98-91"),
    "role": ("CEO", "Minister", "President", "Dr.", "Professor", "Captain", "Judge", "Sir", "coach", "Senator"),
    "acr": ("GDP", "CEO", "VAT", "TV", "DNA", "AGM", "IT", "PhD", "FAQ"),
}

_TRAIN = """\
{per} was born in {city} in {year} .
{role} {last} told reporters on {day} that the talks had failed .
Shares of {org} fell {money} after the results .
{team} beat {team} {score} on {day} night .
The {nat} government rejected the offer from {country} .
{per} joined {org} as {acr} chief in {month} .
{org} will open a new plant near {city} next year .
Thousands marched through {city} on {day} to demand cheaper bread .
{per} , who wrote {work} , lives in {place} .
{bank} raised interest rates for the third time since {month} .
The novel {work} sold {num} copies in {country} .
Heavy rain flooded villages along {place} .
Climbers reached the summit of {place} before dawn .
I saw {work} twice and cried both times .
{last} scored {num} goals for {team} last season .
The {event} starts on {day} in {city} .
{per} won the {event} in {year} .
Researchers at {school} studied the {acr} of {num} whales .
{nat} troops crossed the border into {country} .
My aunt flew from {city} to {city} with {num} suitcases .
{org} agreed to buy {org} for {money} .
{role} {per} met {nat} officials in {city} .
According to {last} , the {acr} figures were wrong .
Have you ever been to {city} ?
{per} and {per} were married in {month} {year} .
{org} shipped {num} engines to {country} in {month} .
The ferry sinks off {place} , killing {num} .
Her {nat} accent was hard to follow .
Analysts at {org} expect {acr} growth of {money} .
He studied law at {school} before moving to {city} .
{team} have signed goalkeeper {per} from {team} .
Who directed {work} ?
Voters in {country} go to the polls on {day} .
The {law} banned the sale of fireworks .
{body} said it would appeal the ruling .
{per} 's lawyer refused to comment .
Workers at {org} went on strike in {month} .
We drove from {city} up to {place} in the snow .
just got home from {city} and my feet hurt
Can {last} play on {day} or is he still injured ?
{last} , 41 , pleaded guilty to fraud at a court in {city} .
The album {work} was recorded in {num} days .
A {nat} tourist was robbed near {place} .
Police in {city} arrested {num} people after the match .
{org} cut {num} jobs at its {city} office .
The wife of {per} opened a bakery in {city} .
{last} thanked his parents , his coach and {team} fans .
Wine from {place} is cheaper than {nat} beer .
The treaty between {country} and {country} expired in {year} .
New rules for VAT start in {month} , the Minister said .
Nobody knows why the lights went out on {day} .
Please read the FAQ before you call the helpdesk .
It took {num} hours to fix the printer again .
TV sales rose {money} in {month} .
Good morning everyone , happy {day} !
The President and the Judge both declined to answer .
Spring came late and the Doctor was tired .
City Hall stays shut until the CEO has a plan .
{body} hired {per} to lead its {acr} unit .
Tickets for the {event} cost {money} .
The {nat} poet {per} died in {city} on {day} .
{team} lost the {event} final to {team} {score} .
Scientists from {school} sailed to {place} .
Fans of {work} queued for hours in {city} .
The mayor of {city} , {per} , resigned .
In {country} , {org} sells {num} phones a day .
{role} {last} of {school} praised the {nat} team .
@user {per} is so funny lol
Dear {per} , thank you for your letter of {month} {num} .
Investors sued {org} over unpaid {acr} refunds .
"""

_DEV = """\
{per} grew up on a farm outside {city} .
Yesterday {role} {last} announced her resignation in {city} .
Profit at {org} doubled to {money} in {month} .
{team} drew {score} with {team} at home .
A spokesman for {org} blamed the weak {nat} currency .
Residents of {city} woke up to an earthquake on {day} .
{last} missed a penalty in the final minute .
The actress {per} stars in {work} .
Fishermen returned to {place} after the storm .
Students of {school} protested against higher fees .
Few critics liked {work} when it came out in {year} .
The {event} will be held in {country} in {year} .
{country} closed its embassy in {city} .
Trains between {city} and {city} were late again .
The engineers of {org} fixed the {acr} bug on {day} .
Our guide , {per} , spoke {nat} and a little {nat} .
{body} fined {org} {money} for polluting {place} .
The defender left {team} for {team} in {month} .
Lawmakers passed the {law} by {num} votes .
" We never agreed to this , " {last} said .
{nat} farmers blocked the road to {city} .
Is {per} coming to the party on {day} ?
finally watched {work} and it was boring
{org} hired {num} programmers in {country} .
Snow covered the slopes of {place} .
The {event} went to {per} for her work on {acr} repair .
Please forward the {acr} form before {month} ends .
Somebody left {num} umbrellas in the Library on {day} .
The Captain said nothing , and the Senator left early .
{team} coach {per} praised the {nat} striker .
{per} sold his stake in {org} to {bank} .
Visitors to {country} need a visa from {month} .
The {acr} of the company quit on {day} .
Have you read {work} by {per} ?
"""

_TEST = """\
{per} spent her childhood in {city} and {city} .
The trial of {role} {last} opens on {day} .
{org} reported a loss of {money} for the year .
{team} defeated {team} {score} in extra time .
{nat} diplomats left {country} in {month} .
The new factory of {org} employs {num} people in {city} .
{last} broke his ankle while training with {team} .
A remake of {work} is planned for {year} .
Two hikers got lost near {place} on {day} .
Professors at {school} called the {acr} study flawed .
{work} is the best film I have seen this year .
Runners from {country} dominated the {event} .
Flights to {city} were cancelled because of fog .
Prices in {country} rose by {money} , {bank} said .
{org} sued its rival {org} over a patent .
She learned {nat} from her grandmother {per} .
Campers were evacuated from {place} as fires spread .
{team} sacked {per} after {num} defeats .
The Senate voted down the {law} on {day} .
" I am going home , " {last} told the crowd .
{nat} cheese tastes better than this
My neighbour {per} works for {org} .
cant believe {work} ended like that
Customers of {org} lost {num} passwords .
The boat drifted towards {place} for {num} days .
{per} received the {event} in {month} .
The {acr} results will be public by {month} .
A Judge and a Professor walked into a bar on {day} .
Buy {num} tickets and get one free , today only !
{per} , the captain of {team} , comes from {country} .
{body} elected {per} as its first {nat} president .
Tourists who visit {city} rarely see {place} .
The soundtrack of {work} was composed by {per} .
Librarians at {school} want {money} more .
"""

PATTERNS: dict[str, tuple[str, ...]] = {
    "train": tuple(_TRAIN.splitlines()),
    "dev": tuple(_DEV.splitlines()),
    "test": tuple(_TEST.splitlines()),
}
