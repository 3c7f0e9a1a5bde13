//! `<Connect>`, `<Start>` and `<Stop>`, whose noun is `<Stream>`.

use std::collections::BTreeMap;

use roxmltree::Node;

use super::PARAMETERS_MAX;
use super::attributes::Attributes;
use super::document::{Connect, MediaStream, Track, Verb};
use super::error::TwimlError;
use super::scope::{Scope, elements};
use super::voice_url::VoiceUrl;

/// Longest name of a `<Parameter>`, in bytes.
const PARAMETER_NAME_BYTES_MAX: usize = 256;
/// Longest value of a `<Parameter>`, in bytes.
const PARAMETER_VALUE_BYTES_MAX: usize = 4_096;

/// `<Connect>`: `None` where it connects to nothing that is served.
pub(super) fn connect(
    scope: &mut Scope<'_>,
    node: Node<'_, '_>,
) -> Result<Option<Verb>, TwimlError> {
    let mut attributes = Attributes::of(node, "Connect");
    let action = attributes.webhook(scope, "action", None)?;
    attributes.finish(scope);
    let mut streams = streams(scope, node)?.into_iter();
    let Some(mut stream) = streams.next() else {
        scope.note(node, "has no <Stream>, and is left out");
        return Ok(None);
    };
    if streams.next().is_some() {
        scope.note(node, "has more than one <Stream>; the first is used");
    }
    if stream.track != Track::Inbound {
        scope.note(
            node,
            "has a <Stream> of another track; inbound_track is used",
        );
        stream.track = Track::Inbound;
    }
    Ok(Some(Verb::Connect(Connect { action, stream })))
}

/// `<Start>`: one verb for each stream in it.
pub(super) fn start(
    scope: &mut Scope<'_>,
    node: Node<'_, '_>,
    verbs: &mut Vec<Verb>,
) -> Result<(), TwimlError> {
    Attributes::of(node, "Start").finish(scope);
    let streams = streams(scope, node)?;
    verbs.extend(streams.into_iter().map(Verb::StartStream));
    Ok(())
}

/// `<Stop>`: one verb for each stream that it names.
pub(super) fn stop(
    scope: &mut Scope<'_>,
    node: Node<'_, '_>,
    verbs: &mut Vec<Verb>,
) -> Result<(), TwimlError> {
    Attributes::of(node, "Stop").finish(scope);
    for noun in elements(node) {
        if noun.tag_name().name() != "Stream" {
            scope.leave_out(noun, &["Stream"])?;
            continue;
        }
        let mut attributes = Attributes::of(noun, "Stream");
        match attributes.name(scope, "name") {
            Some(name) => verbs.push(Verb::StopStream(name)),
            None => scope.note(noun, "has no name, and stops nothing"),
        }
        attributes.finish(scope);
    }
    Ok(())
}

fn streams(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<Vec<MediaStream>, TwimlError> {
    let mut streams = Vec::new();
    for noun in elements(node) {
        match noun.tag_name().name() {
            "Stream" => streams.push(stream(scope, noun)?),
            _ => scope.leave_out(noun, &["Stream"])?,
        }
    }
    Ok(streams)
}

fn stream(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<MediaStream, TwimlError> {
    let mut attributes = Attributes::of(node, "Stream");
    let url = attributes
        .text("url")
        .filter(|text| !text.trim().is_empty());
    let url = url.and_then(|text| VoiceUrl::resolve_ws(scope.address, text));
    let url = url.ok_or_else(|| scope.bad_address(node, "Stream", "url"))?;
    let tracks = [
        ("inbound_track", Track::Inbound),
        ("outbound_track", Track::Outbound),
        ("both_tracks", Track::Both),
    ];
    let track = attributes.choice(scope, "track", &tracks);
    let stream = MediaStream {
        url,
        written_by: scope.written_by,
        name: attributes.name(scope, "name"),
        track: track.unwrap_or_default(),
        status_callback: attributes.status_callback(scope, Vec::new()),
        parameters: parameters(scope, node)?.into(),
    };
    attributes.finish(scope);
    Ok(stream)
}

fn parameters(
    scope: &mut Scope<'_>,
    node: Node<'_, '_>,
) -> Result<BTreeMap<String, String>, TwimlError> {
    let mut parameters = BTreeMap::new();
    for noun in elements(node) {
        if noun.tag_name().name() != "Parameter" {
            scope.leave_out(noun, &["Parameter"])?;
            continue;
        }
        let mut attributes = Attributes::of(noun, "Parameter");
        let name = attributes.text("name").unwrap_or_default();
        let value = attributes.text("value").unwrap_or_default();
        attributes.finish(scope);
        let is_served = (1..=PARAMETER_NAME_BYTES_MAX).contains(&name.len())
            && value.len() <= PARAMETER_VALUE_BYTES_MAX
            && parameters.len() < PARAMETERS_MAX;
        if is_served {
            parameters.insert(name.to_owned(), value.to_owned());
        } else {
            scope.note(
                noun,
                "has no name, is too long or one too many, and is left out",
            );
        }
    }
    Ok(parameters)
}
