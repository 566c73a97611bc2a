"""Words of the built-in world's topics: what its titles and descriptions are made of.

A topic's nouns stand in an order in which neighbours have to do with each other, because items
close to each other in a topic share a noun. Nouns and modifiers belong to one topic only, so that
a person reading a title sees which topic it is from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """One topic: its name, the genres shops would file it under, nouns, modifiers and moods."""

    name: str
    genres: tuple[str, ...]
    nouns: tuple[str, ...]
    modifiers: tuple[str, ...]
    moods: tuple[str, ...]


def _topic(name: str, genres: str, nouns: str, modifiers: str, moods: str) -> Topic:
    moods_split = tuple(mood.strip() for mood in moods.split(","))
    return Topic(
        name, tuple(genres.split()), tuple(nouns.split()), tuple(modifiers.split()), moods_split
    )


TITLE_FORMS = (
    "The {modifier} {noun}",
    "{modifier} {noun}",
    "{modifier} {noun} Remembered",
    "Return of the {modifier} {noun}",
    "Beyond the {modifier} {noun}",
)
KINDS = ("story", "account", "portrait", "chronicle", "guide", "collection")
ASIDES = (
    "told over one long summer",
    "for patient readers",
    "with notes by the author",
    "in twelve short parts",
    "as it was told by a neighbour",
    "newly revised",
)

TOPICS = (
    _topic(
        "seafaring",
        "Seafaring Maritime Nautical",
        "Harbour Lighthouse Schooner Captain Compass Tide Reef Whale Storm Anchor Voyage Lagoon",
        "Salted Drifting Windward Becalmed Tidal Barnacled Northbound Shipwrecked",
        "with salt in every line, under full sail, far from any shore, on the night watch",
    ),
    _topic(
        "space",
        "Spaceflight Cosmic Astronomy",
        "Orbit Satellite Astronaut Comet Nebula Galaxy Telescope Meteor Moonbase Lander Pulsar",
        "Weightless Stellar Lunar Interplanetary Radiant Starlit Martian Solar",
        "in zero gravity, light years from home, on the dark side, after launch",
    ),
    _topic(
        "detective",
        "Detective Crime Whodunit",
        "Inspector Alibi Fingerprint Witness Suspect Motive Ransom Blackmail Verdict Cellmate "
        "Informer Dossier",
        "Unsolved Anonymous Guilty Forged Missing Poisoned Undercover Sleepless",
        "with a body in the library, one clue short, behind locked doors, before the trial",
    ),
    _topic(
        "cooking",
        "Cooking Kitchen Culinary",
        "Kitchen Skillet Casserole Dumpling Noodle Broth Spice Saffron Pepper Butter Pastry Oven",
        "Simmering Caramelised Braised Roasted Crispy Pickled Homemade Zesty",
        "served warm, with second helpings, from a family table, at a low boil",
    ),
    _topic(
        "gardening",
        "Gardening Botanical Horticulture",
        "Greenhouse Trellis Orchard Hedge Rosebush Peony Tulip Bulb Compost Seedling Shovel Meadow",
        "Blooming Shaded Overgrown Pruned Fragrant Perennial Dewy Rooted",
        "through four seasons, with muddy hands, after the last frost, in full flower",
    ),
    _topic(
        "mountaineering",
        "Mountaineering Alpine Climbing",
        "Summit Ridge Basecamp Glacier Crevasse Rope Carabiner Icefall Sherpa Avalanche Cairn",
        "Vertical Roped Snowbound Exposed Unclimbed Jagged Breathless Frostbitten",
        "above the tree line, on one rope, in thin air, without oxygen",
    ),
    _topic(
        "jazz",
        "Jazz Swing Bebop",
        "Saxophone Trumpet Clarinet Bassline Drummer Quartet Nightclub Encore Ballad Solo Rhythm "
        "Ragtime",
        "Syncopated Midnight Smoky Improvised Muted Swinging Bluesy Uptempo",
        "after the last set, in four beats, with the lights down, off the record",
    ),
    _topic(
        "chess",
        "Chess Strategy Tournament",
        "Gambit Bishop Rook Pawn Checkmate Endgame Opening Grandmaster Stalemate Castling Fork",
        "Sacrificed Doubled Passed Calculated Blindfold Cornered Zugzwang Positional",
        "move by move, with the clock running, in a quiet hall, one tempo ahead",
    ),
    _topic(
        "dragons",
        "Fantasy Sorcery Legend",
        "Dragon Wizard Spellbook Amulet Sword Throne Kingdom Prophecy Elf Dwarf Griffin Potion",
        "Enchanted Cursed Crowned Fabled Runic Fiery Spellbound Mythic",
        "before the old magic fades, beyond the last kingdom, by sword and spell, in dragon land",
    ),
    _topic(
        "dinosaurs",
        "Dinosaurs Palaeontology Prehistoric",
        "Fossil Skeleton Raptor Tyrannosaur Triceratops Stegosaur Pterosaur Egg Footprint Swamp "
        "Extinction Excavation",
        "Jurassic Armoured Feathered Petrified Cretaceous Horned Lumbering Triassic",
        "bone by bone, in the age of reptiles, from deep time, before the asteroid",
    ),
    _topic(
        "railways",
        "Railways Trains Locomotive",
        "Locomotive Platform Timetable Signalbox Conductor Dining-Car Sleeper Tunnel Viaduct "
        "Branchline Junction Whistle",
        "Westbound Steam-Driven Punctual Narrow-Gauge Coal-Fired Express Derailed Overnight",
        "on the slow line, from the window seat, right on time, between two stations",
    ),
    _topic(
        "polar",
        "Polar Arctic Antarctic",
        "Iceberg Penguin Sledge Husky Igloo Blizzard Icebreaker Seal Aurora Permafrost Floe Tundra",
        "Frozen Snowblind White-Out Subzero Glacial Polar Icebound Windchilled",
        "at the end of the map, through the long night, by dog sledge, below zero",
    ),
    _topic(
        "egypt",
        "Archaeology Egyptology Antiquity",
        "Pyramid Pharaoh Mummy Sarcophagus Hieroglyph Papyrus Scarab Sphinx Obelisk Tomb Delta "
        "Dynasty",
        "Buried Gilded Sealed Unwrapped Pharaonic Inscribed Sandstone Looted",
        "under the desert sun, along the river, in an opened tomb, three thousand years on",
    ),
    _topic(
        "robots",
        "Robots Cybernetic Machines",
        "Android Circuit Sensor Algorithm Cyborg Servo Automaton Firmware Neural-Net Drone Battery "
        "Factory",
        "Sentient Rewired Obsolete Autonomous Metallic Programmed Humming Synthetic",
        "one update away, with a mind of its own, on the assembly line, after the reboot",
    ),
    _topic(
        "football",
        "Football Soccer Stadium",
        "Striker Goalkeeper Midfielder Penalty Corner-Kick Offside Derby Stadium Referee Trophy "
        "Substitute Dugout",
        "Unbeaten Promoted Relegated Last-Minute Headed Left-Footed Away-Day Injury-Time",
        "in front of the home crowd, deep into extra time, all season long, one goal down",
    ),
    _topic(
        "ballet",
        "Ballet Dance Stage",
        "Ballerina Pirouette Tutu Slipper Rehearsal Choreographer Swan Curtain Spotlight Orchestra "
        "Barre Understudy",
        "Graceful Barefoot Silken Whirling Poised Rehearsed Weary-Footed Opening-Night",
        "in front of the mirror, on pointe, until the curtain falls, step by step",
    ),
    _topic(
        "birds",
        "Birdwatching Ornithology Wildlife",
        "Falcon Heron Nightingale Sparrow Owl Kingfisher Nest Plumage Migration Wetland Songbird",
        "Nesting Migrating Crested Wading Dawn-Singing Hovering Ringed Moulting",
        "before sunrise, through field glasses, on the spring flight, from a reed bed",
    ),
    _topic(
        "western",
        "Western Frontier Cowboy",
        "Sheriff Saloon Outlaw Stagecoach Ranch Cattle Revolver Canyon Prairie Bounty Mustang "
        "Gold-Rush",
        "Dusty Lawless Galloping Wanted Sunburnt Quick-Draw Homesteading Lonesome",
        "at high noon, west of the river, one bullet left, on the cattle trail",
    ),
    _topic(
        "hospital",
        "Medicine Hospital Clinical",
        "Surgeon Scalpel Ward Nurse Ambulance Stethoscope Diagnosis Vaccine Patient Pulse Anatomy "
        "Heartbeat",
        "Emergency Chronic Anaesthetised Contagious Stitched Recovering On-Call Feverish",
        "on a double shift, in intensive care, one beat at a time, after visiting hours",
    ),
    _topic(
        "painting",
        "Painting Art Gallery",
        "Canvas Easel Palette Fresco Portraitist Watercolour Charcoal Atelier Pigment Still-Life "
        "Varnish Gallery",
        "Unframed Oil-Painted Ochre Half-Finished Impressionist Cobalt Layered Signed",
        "in northern light, stroke by stroke, before the varnish dries, on loan to no museum",
    ),
    _topic(
        "vampires",
        "Horror Gothic Vampire",
        "Vampire Coffin Crypt Bat Graveyard Werewolf Ghost Seance Haunting Scream Cellar Nightmare",
        "Undead Bloodless Moonless Pale Haunted Howling Accursed Candlelit",
        "after midnight, with the lamp blown out, where nobody sleeps, until the cock crows",
    ),
    _topic(
        "cycling",
        "Cycling Velodrome Touring",
        "Peloton Bicycle Saddle Derailleur Sprint Breakaway Cobbles Velodrome Handlebar Pedal "
        "Time-Trial Puncture",
        "Freewheeling Uphill Yellow-Jersey Spinning Two-Wheeled Slipstreamed Carbon Rain-Soaked",
        "with the wind behind, into the final bend, stage by stage, on two wheels",
    ),
    _topic(
        "architecture",
        "Architecture Design Buildings",
        "Cathedral Skyscraper Blueprint Scaffold Arch Dome Facade Courtyard Staircase Column "
        "Balcony Cornerstone",
        "Vaulted Brutalist Baroque Cantilevered Restored Glass-Walled Unbuilt Symmetrical",
        "from the first drawing, brick by brick, in steel and glass, as the city grew",
    ),
    _topic(
        "wine",
        "Wine Vineyard Cellars",
        "Vineyard Harvest Grape Barrel Cork Sommelier Vintage Chateau Decanter Tannin Champagne "
        "Tasting",
        "Sparkling Aged Oaken Full-Bodied Late-Harvest Sun-Ripened Dry Velvety",
        "from the southern slope, glass in hand, in a good year, left to breathe",
    ),
)
