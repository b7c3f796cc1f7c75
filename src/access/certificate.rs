//! The names of a client certificate: what it says of who has it.
//!
//! That it may be believed is the transport's matter: here it only is read.

use x509_cert::{
    Certificate, TbsCertificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// What tells a URI from a name.
const URI_SIGN: &str = "://";

/// The names that a certificate gives to its owner, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    names: Vec<CertificateName>,
    /// From when on they do not count any more, in seconds since 1970.
    ends: i64,
}

/// One name, in the form in which names are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum CertificateName {
    /// A URI such as a SPIFFE id, compared as it is.
    Uri(Box<str>),
    /// A DNS name or a common name, in small letters.
    Plain(Box<str>),
}

impl CertificateName {
    /// As the credentials file writes it; none of an empty text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.contains(URI_SIGN) { Some(Self::Uri(text.into())) } else { Self::plain(text) }
    }

    /// None of what could be taken for a URI: a name in one place of a certificate must not count
    /// as another one in another place.
    fn plain(text: &str) -> Option<Self> {
        let is_plain = !text.is_empty() && !text.contains(URI_SIGN);
        is_plain.then(|| Self::Plain(text.to_ascii_lowercase().into()))
    }

    fn uri(text: &str) -> Option<Self> {
        text.contains(URI_SIGN).then(|| Self::Uri(text.into()))
    }
}

impl CertificateNames {
    /// The DNS names and URIs of the subject alternative names; the common name of the subject
    /// where there are no alternative names at all. None of what is no certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        read(der).unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &CertificateName> {
        self.names.iter()
    }

    /// From when on they do not count any more, in seconds since 1970.
    pub(super) fn ends(&self) -> i64 {
        self.ends
    }
}

fn read(der: &[u8]) -> Option<CertificateNames> {
    let certificate = Certificate::from_der(der).ok()?;
    let certificate = certificate.tbs_certificate();
    // The last second in which it is good.
    let last = certificate.validity().not_after.to_unix_duration().as_secs();
    let ends = i64::try_from(last).ok()?.saturating_add(1);
    Some(CertificateNames { names: names(certificate)?, ends })
}

fn names(certificate: &TbsCertificate) -> Option<Vec<CertificateName>> {
    if let Some((_critical, names)) = certificate.get_extension::<SubjectAltName>().ok()? {
        return Some(names.0.iter().filter_map(alternative).collect());
    }
    let name = certificate.subject().common_name().ok()??;
    Some(CertificateName::plain(&name.value()).into_iter().collect())
}

fn alternative(name: &GeneralName) -> Option<CertificateName> {
    match name {
        GeneralName::DnsName(name) => CertificateName::plain(name.as_str()),
        GeneralName::UniformResourceIdentifier(uri) => CertificateName::uri(uri.as_str()),
        GeneralName::OtherName(_)
        | GeneralName::Rfc822Name(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EdiPartyName(_)
        | GeneralName::IpAddress(_)
        | GeneralName::RegisteredId(_) => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    /// Certificates that openssl made, signed by themselves.
    const CERTIFICATES: [(&str, &str); 5] = [
        (
            "san",
            "\
     MIIBeTCCASugAwIBAgIUZCZSc3B0mMp5uBJHeObhKCYbMXcwBQYDK2VwMBMxETAPBgNVBAMMCG5vdC10aGlzMCAX\
     DTI2MTEyNzAwNDA0MloYDzIxMjYxMTAzMDA0MDQyWjATMREwDwYDVQQDDAhub3QtdGhpczAqMAUGAytlcAMhAIYi\
     LjLMbvd+/4T2AH3enG2Crt4/7iHRHks3tkDT15Hjo4GOMIGLMB0GA1UdDgQWBBSMOYzQqQWePX/uHmph5/ium/dS\
     8TAfBgNVHSMEGDAWgBSMOYzQqQWePX/uHmph5/ium/dS8TAPBgNVHRMBAf8EBTADAQH/MDgGA1UdEQQxMC+CDFRp\
     bGwuRXhhbXBsZYYSc3BpZmZlOi8vYmFuay90aWxsgQVhQGIuY4cEfwAAATAFBgMrZXADQQByDqGpZUdfDFYoS+cq\
     9IQbpxCAnrFkFjD6QaGLy0o6RVvIgByW/J7d+0tUxLbyUrm6JuoaFfi/ImmV6v30ECIJ\
     ",
        ),
        (
            "cn",
            "\
     MIIBVzCCAQmgAwIBAgIUQNUqFwVLei7IVc7lUDvikXZkydwwBQYDK2VwMCAxDTALBgNVBAoMBGJhbmsxDzANBgNV\
     BAMMBlRpbGwtNzAgFw0yNjExMjcwMDQwNDJaGA8yMTI2MTEwMzAwNDA0MlowIDENMAsGA1UECgwEYmFuazEPMA0G\
     A1UEAwwGVGlsbC03MCowBQYDK2VwAyEARwt/HZtKotCuZkaMlZNt9f1d0sOLDU9WdN5FUfXm0CCjUzBRMB0GA1Ud\
     DgQWBBSbOOpvZU5iNilkROoPEp8DCPW2CjAfBgNVHSMEGDAWgBSbOOpvZU5iNilkROoPEp8DCPW2CjAPBgNVHRMB\
     Af8EBTADAQH/MAUGAytlcANBAL5WrwqtmX/1Ua0UQAO7swJrS7mbntdFy0P4jDzAzRPEzTFF9jzAGfjcn5bT3a9H\
     AWDkeq5vjqEvFGEszee1JA0=\
     ",
        ),
        (
            "email",
            "\
     MIIBSjCB/aADAgECAhQxN+d9D834W5oJue7eGIdtihlUPTAFBgMrZXAwETEPMA0GA1UEAwwGdGlsbC03MCAXDTI2\
     MTEyNzAwNDA0MloYDzIxMjYxMTAzMDA0MDQyWjARMQ8wDQYDVQQDDAZ0aWxsLTcwKjAFBgMrZXADIQD/YjPAV/a2\
     OUlDHAuDgqXoi3erZHXncUVoGwGpFIYYy6NlMGMwHQYDVR0OBBYEFMUE98pKXVS6neWYQWtTy2E1L1UqMB8GA1Ud\
     IwQYMBaAFMUE98pKXVS6neWYQWtTy2E1L1UqMA8GA1UdEwEB/wQFMAMBAf8wEAYDVR0RBAkwB4EFYUBiLmMwBQYD\
     K2VwA0EAUDiPWYACkR2xukWmhqbJQuijzlu5MQCiB2lvK03J6YISJsp6XDLHFf8ZzwlM0rgWSkBPB3Sa3G+NjC92\
     Y3ckBA==\
     ",
        ),
        (
            "tricky",
            "\
     MIIBTzCCAQGgAwIBAgIUMdvqUNPk8tGohAQB008pe352T+gwBQYDK2VwMAwxCjAIBgNVBAMMAXgwIBcNMjYxMTI3\
     MDA0MDQyWhgPMjEyNjExMDMwMDQwNDJaMAwxCjAIBgNVBAMMAXgwKjAFBgMrZXADIQDuVwFo98sP+W2d4qYBW8R1\
     7XXSx/tJgQee5SaF81pnK6NzMHEwHQYDVR0OBBYEFP3biwt8kIvVCaL0dcbubmjERiVwMB8GA1UdIwQYMBaAFP3b\
     iwt8kIvVCaL0dcbubmjERiVwMA8GA1UdEwEB/wQFMAMBAf8wHgYDVR0RBBcwFYITc3BpZmZlOi8vYmFuay9hZG1p\
     bjAFBgMrZXADQQDrf70rLFf+HVRVFiF6hkfPlaL5qQSSKestRqFuFHZQCbVIFN9gIu5vIgoxpWenECPXmNkhj+Tr\
     sAYCkT3r2dcA\
     ",
        ),
        (
            "uricn",
            "\
     MIIBUzCCAQWgAwIBAgIUdaZdfxTV8awy09OihGwH9VD6xpkwBQYDK2VwMB4xHDAaBgNVBAMME3NwaWZmZTovL2Jh\
     bmsvYWRtaW4wIBcNMjYxMTI3MDA0MDQyWhgPMjEyNjExMDMwMDQwNDJaMB4xHDAaBgNVBAMME3NwaWZmZTovL2Jh\
     bmsvYWRtaW4wKjAFBgMrZXADIQAwGq9pYhB8YJAQmz7JC98uLuUiMcoS5OFZjw0h8gsZKKNTMFEwHQYDVR0OBBYE\
     FBjUAgOHCvKUzpx+HBOBhjEj5+keMB8GA1UdIwQYMBaAFBjUAgOHCvKUzpx+HBOBhjEj5+keMA8GA1UdEwEB/wQF\
     MAMBAf8wBQYDK2VwA0EA0NmmWWQVvszpIKPKIEi73Xuu4Dz5CQedMIQloVgzJJQzfXkRaPtNHPlqNRLia2CajKyB\
     /ccGhQBSJb16a4qiCQ==\
     ",
        ),
    ];

    /// One of them.
    pub(crate) fn der(name: &str) -> Vec<u8> {
        let (_, text) = CERTIFICATES.iter().find(|(known, _)| *known == name).unwrap();
        STANDARD.decode(text).unwrap()
    }

    fn names(name: &str) -> Vec<CertificateName> {
        CertificateNames::of(&der(name)).names
    }

    fn plain(name: &str) -> CertificateName {
        CertificateName::Plain(name.into())
    }

    #[test]
    fn alternative_names_come_before_the_common_name() {
        let uri = CertificateName::Uri("spiffe://bank/till".into());
        assert_eq!(names("san"), [plain("till.example"), uri]);
        assert_eq!(names("cn"), [plain("till-7")]);
        assert_eq!(names("email"), [], "the common name does not count beside others");
    }

    #[test]
    fn a_name_is_not_taken_for_a_uri() {
        // A DNS name, and a common name, that look like the id of another.
        assert_eq!(names("tricky"), []);
        assert_eq!(names("uricn"), []);
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        let good = der("san");
        for length in 0..good.len() {
            assert_eq!(CertificateNames::of(&good[..length]).names, [], "{length} bytes");
        }
        assert_eq!(CertificateNames::of(b"garbage").names, []);
        // Nothing that is changed in it makes the parser panic.
        for index in 0..good.len() {
            for bit in 0..8 {
                let mut changed = good.clone();
                changed[index] ^= 1 << bit;
                let _any_names = CertificateNames::of(&changed);
            }
        }
    }
}
