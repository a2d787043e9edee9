"""How long an image takes to make, which is what its price is made of."""
