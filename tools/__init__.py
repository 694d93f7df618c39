"""Small programs for developers; nothing here ships."""
