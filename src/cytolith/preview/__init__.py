"""A page that shows what each step of the cells pipeline does to a part of a volume."""
