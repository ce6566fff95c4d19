"""The words of which the claims-extraction texts are made: one bank to learn from, one to be judged by, nothing shared.

All of it is ours, made up, and free for any use (CC0). Names and numbers belong to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bank:
    """Everything that a text is put together from. `perils`: how people tell it, by the word for it."""

    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    letters: tuple[str, ...]
    perils: Mapping[str, tuple[str, ...]]
    layouts: tuple[str, ...]


LEARN = Bank(
    first_names=(
        "Anna",
        "Ben",
        "Carla",
        "David",
        "Elena",
        "Frank",
        "Grace",
        "Hugo",
        "Ines",
        "Jonas",
        "Kate",
        "Liam",
        "Maria",
        "Noah",
        "Olga",
        "Peter",
        "Rosa",
        "Simon",
        "Tara",
        "Victor",
    ),
    last_names=(
        "Adler",
        "Brandt",
        "Costa",
        "Dietz",
        "Evans",
        "Fischer",
        "Garcia",
        "Hansen",
        "Ito",
        "Jensen",
        "Keller",
        "Lopez",
        "Moreau",
        "Novak",
        "Olsen",
        "Petrov",
        "Rossi",
        "Schmidt",
        "Turner",
        "Weber",
    ),
    letters=("HH", "KX", "LM", "PT", "RB", "SD", "VA", "WN"),
    perils={
        "fire": (
            "a candle set the curtains alight",
            "the toaster burned down half of the kitchen",
            "sparks from the chimney set the roof on fire",
            "a short circuit burned the workshop",
            "smoke and flames ruined the living room",
            "hot fat caught fire on the stove",
            "the garage went up in flames",
        ),
        "water": (
            "a burst pipe flooded the kitchen",
            "the washing machine leaked through the ceiling",
            "the bath ran over and soaked the floor below",
            "a leaking boiler ruined the parquet",
            "the dishwasher hose came off and flooded the hall",
            "water from the flat above ran down the walls",
            "a cracked water tank soaked the attic",
        ),
        "theft": (
            "a bicycle was stolen from the cellar",
            "burglars took the jewellery",
            "someone broke in and took two laptops",
            "a thief snatched a handbag on the train",
            "the car was stolen from the driveway",
            "thieves emptied the garden shed",
            "a camera was stolen from the hotel room",
        ),
        "storm": (
            "a gale tore tiles off the roof",
            "hail smashed the greenhouse",
            "a storm blew the fence down",
            "strong wind threw a tree on the carport",
            "lightning struck the aerial",
            "hailstones dented the bonnet of the car",
            "a gust ripped off the awning",
        ),
        "collision": (
            "another car ran into the rear bumper",
            "a van scraped the door in a car park",
            "the car hit a bollard while turning",
            "a lorry clipped the wing mirror",
            "two cars crashed at the crossing",
            "a motorbike ran into the side of the car",
            "the car skidded into a wall",
        ),
    },
    layouts=(
        "{name}, policy {policy}, reports that on {date} {event}. Repairs are put at {amount}.",
        "On {date} {event}. Policy {policy}, holder {name}, asks for {amount}.",
        "Claim of {amount} by {name} under policy {policy}: {event} on {date}.",
        "My name is {name} and my policy is {policy}. On {date} {event}. The damage comes to {amount}.",
        "Policy {policy}: {event} on {date}. {name} claims {amount}.",
        "{name} phoned to say that {event} on {date}. The estimate is {amount}; the policy is {policy}.",
        "Dear team, on {date} {event}. I claim {amount}. Regards, {name}, policy number {policy}",
        "Policy holder {name} ({policy}) wants {amount} because {event}. Date of loss: {date}.",
    ),
)

JUDGE = Bank(
    first_names=("Amir", "Bianca", "Clara", "Daniel", "Eva", "Felix", "Hanna", "Ivan", "Julia", "Karl", "Lena", "Mark"),
    last_names=(
        "Becker",
        "Clark",
        "Duarte",
        "Eriksen",
        "Fontana",
        "Graf",
        "Horvat",
        "Kaya",
        "Larsen",
        "Meyer",
        "Nilsson",
        "Parker",
    ),
    letters=("BG", "CN", "FK", "TL"),
    perils={
        "fire": (
            "a cigarette burned the sofa",
            "the tumble dryer caught fire",
            "the barbecue set the hedge on fire",
            "flames from the oven blackened the cupboards",
        ),
        "water": (
            "a broken tap flooded the bathroom",
            "the radiator leaked onto the carpet",
            "a blocked drain flooded the cellar",
            "an aquarium burst and soaked the study",
        ),
        "theft": (
            "a phone was stolen at the station",
            "burglars took a television",
            "a thief took the scooter from the yard",
            "someone stole the tools from the van",
        ),
        "storm": (
            "wind blew down the chimney",
            "hail broke three windows",
            "a storm tore the gutter off",
            "lightning destroyed the router",
        ),
        "collision": (
            "a taxi ran into the front wing",
            "the car hit a gatepost",
            "a bus scraped the whole left side",
            "a cyclist crashed into the tailgate",
        ),
    },
    layouts=(
        "{event} on {date}, writes {name} (policy {policy}). The bill is {amount}.",
        "Notice of loss. Holder: {name}. Policy: {policy}. On {date} {event}. Sum claimed: {amount}.",
        "Under policy {policy} {name} asks us to pay {amount}: on {date} {event}.",
        "I am {name}. {amount} is what it will cost, because on {date} {event}. Policy {policy}.",
    ),
)
