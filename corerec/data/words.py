"""The words that the generated world is written in."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CATEGORIES: dict[str, str] = {
    "Backpacks": "Backpack Daypack Rucksack Satchel Duffel Tote",
    "Running Shoes": "Trainer Racer Runner Spike Flat Sneaker",
    "Tents": "Tent Shelter Tarp Bivouac Canopy Pavilion",
    "Coffee": "Espresso Roast Blend Arabica Ristretto Decaf",
    "Tea": "Oolong Sencha Chai Rooibos Assam Matcha",
    "Cookware": "Skillet Saucepan Wok Casserole Griddle Stockpot",
    "Knives": "Chef-Knife Santoku Paring-Knife Cleaver Slicer Bread-Knife",
    "Lamps": "Lamp Lantern Sconce Pendant Uplighter Torch",
    "Chairs": "Chair Armchair Stool Rocker Recliner Bench",
    "Rugs": "Rug Kilim Runner-Rug Mat Carpet Dhurrie",
    "Bedding": "Duvet Pillow Blanket Quilt Throw Bedspread",
    "Novels": "Novel Saga Romance Tale Chronicle Fable",
    "Crime Books": "Thriller Mystery Whodunit Casefile Noir Alibi",
    "Science Books": "Primer Atlas Handbook Treatise Companion Almanac",
    "Comics": "Comic Graphic-Novel Manga Strip Anthology Issue",
    "Puzzles": "Puzzle Jigsaw Brainteaser Labyrinth Cube Tangram",
    "Board Games": "Board-Game Strategy-Game Party-Game Card-Game Dice-Game Expansion",
    "Headphones": "Headphones Earbuds Headset Earphones Monitors Neckband",
    "Keyboards": "Keyboard Keypad Macropad Numpad Keycaps Switches",
    "Cameras": "Camera Rangefinder Camcorder Lens Tripod Flash",
    "Watches": "Watch Chronograph Diver Smartwatch Pocket-Watch Timer",
    "Jackets": "Jacket Parka Anorak Windbreaker Blazer Raincoat",
    "Dresses": "Dress Sundress Gown Tunic Pinafore Jumpsuit",
    "Knitwear": "Sweater Cardigan Pullover Jumper Vest Turtleneck",
    "Denim": "Jeans Dungarees Denim-Jacket Denim-Skirt Chinos Cutoffs",
    "Jewellery": "Necklace Bracelet Earrings Ring Brooch Anklet",
    "Skincare": "Serum Cleanser Moisturiser Toner Balm Mask",
    "Perfume": "Perfume Cologne Eau-de-Toilette Mist Attar Essence",
    "Gardening": "Trowel Secateurs Planter Hoe Watering-Can Rake",
    "Seeds": "Seeds Bulbs Seedling Sapling Tuber Sprouts",
    "Bicycles": "Bicycle Tandem Cruiser Fixie Tourer Folder",
    "Climbing": "Harness Rope Carabiner Quickdraw Crampon Helmet",
    "Yoga": "Yoga-Mat Bolster Yoga-Block Strap Cushion Wheel",
    "Fishing": "Rod Reel Lure Tackle-Box Waders Landing-Net",
    "Guitars": "Guitar Ukulele Bass Banjo Mandolin Lute",
    "Vinyl": "LP Single EP Box-Set Reissue Live-Album",
    "Toys": "Blocks Train-Set Doll Robot Kite Spinning-Top",
    "Pet Supplies": "Leash Cat-Tree Dog-Bed Feeder Aquarium Birdhouse",
    "Stationery": "Notebook Fountain-Pen Planner Sketchbook Ink Calligraphy-Set",
    "Chocolate": "Truffles Bar Praline Bonbon Ganache Nougat",
}
"""Category -> the things in it."""

STYLES = _words(
    "Alpine Coastal Nordic Urban Vintage Minimal Rustic Retro Tropical Desert Royal Cosmic Quiet "
    "Electric Velvet Golden Midnight Sunrise Arctic Botanical Industrial Baroque Modern Classic "
    "Wild Gentle Rapid Feather Heritage Neon Pastel Monochrome Lunar Harvest Festival Harbour "
    "Meadow Canyon Metro Studio Pioneer Artisan Voyager Nomad Zen Bohemian Academic Sport"
)
MATERIALS = _words(
    "Canvas Leather Bamboo Steel Oak Linen Wool Cotton Copper Ceramic Titanium Cork Silk Walnut "
    "Glass Carbon Hemp Brass Marble Felt"
)
SEASONS = ("spring", "summer", "autumn", "winter", "all-year")
EXTRAS = _words("gift handmade recycled limited bestseller lightweight vegan outdoor kids pro")
SYLLABLES_1 = _words("Nor Bel Kas Tor Vin Mar Lum Fen Oro Sil Hal Dra Per Wes Zan Cal Rij Eld")
SYLLABLES_2 = _words("da fi ra lo me ti su ne ka vo ri la")
SYLLABLES_3 = _words("berg ford well son mark stad haus wood field line craft works")
AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
COUNTRIES = ("DE", "FR", "GB", "US", "BR", "IN", "JP", "AU")
UTC_HOURS = (1, 1, 0, -6, -3, 5, 9, 10)
"""Hours that each country's clocks are ahead of UTC."""
DEVICES = ("app", "web", "tablet")
