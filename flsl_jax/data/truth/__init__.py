"""What is known of images besides boxes: masks, key points, depths, objects in videos."""
