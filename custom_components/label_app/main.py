"""What ``monailabel start_server --app custom_components/label_app`` loads."""

from custom_components.label_app.app import LabelApp

__all__ = ["LabelApp"]
