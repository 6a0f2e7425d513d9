"""What measures a site's power. Nothing here needs numpy or the configuration's classes: it runs in a site's agent."""
