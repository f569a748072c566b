"""Puts the gateway together: what takes films in (C-STORE, STOW-RS) around what moves them on."""

from __future__ import annotations

from app.gateway.config import GatewayConfig, read_secret
from app.gateway.core import Gateway
from app.gateway.scp import StorageScp, silence_libraries
from app.gateway.stow_in import StowIn
from app.settings import Settings


class GatewayServer:
    """One process' gateway. `stow` is the HTTP side, for a server of the caller's at `stow_address`; None where none is configured.

    Args:
        settings: as for `Gateway`.
        config: the gateway's own file.

    Raises:
        ConfigurationError: a secret cannot be read, an address is none.
        RecordsError: the key ring or the database does not open.
    """

    def __init__(self, settings: Settings, config: GatewayConfig) -> None:
        silence_libraries()
        token = None if config.stow is None else read_secret(config.stow.token_file)
        self.gateway = Gateway(settings, config)
        self.stow_address = ("", 0) if config.stow is None else (config.stow.host, config.stow.port)
        self.scp: StorageScp | None = None
        self.stow: StowIn | None = None
        if config.dimse is not None:
            self.scp = StorageScp(
                self.gateway.receive,
                ae_title=config.dimse.ae_title,
                peers=config.dimse.peers,
                host=config.dimse.host,
                port=config.dimse.port,
                message_max_bytes=settings.dicom_max_bytes,
                max_associations=config.dimse.max_associations,
                silence_s=config.dimse.timeout_s,
            )
        if token is not None:
            self.stow = StowIn(
                self.gateway.receive,
                status=self.gateway.status,
                connections=lambda: self.scp.associations if self.scp else 0,
                token=token,
                file_max_bytes=settings.dicom_max_bytes,
            )

    def start(self) -> None:
        """Move on what is there, then take films.

        Raises:
            ConfigurationError: gateway_running; another process works on the same state.
            OSError: the DICOM port is taken.
        """
        self.gateway.start()
        if self.scp is not None:
            self.scp.start()

    def stop(self) -> None:
        """Take no more films, then end the workers. What is not delivered stays and goes on at the next start."""
        if self.scp is not None:
            self.scp.stop()
        if self.stow is not None:
            self.stow.close()
        self.gateway.stop()
