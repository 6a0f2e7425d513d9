"""What is deployed: chart, image, guide."""
