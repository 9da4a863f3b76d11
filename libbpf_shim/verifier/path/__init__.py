"""Paths: where two meet, whether one covers the other, which values a decision depended on, how
loops end."""
