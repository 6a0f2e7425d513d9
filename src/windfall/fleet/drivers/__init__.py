"""Drivers: what turns a site on and off."""
